-- The retry rule of every queue: what failed waits before it is tried again. The wait doubles with each attempt up to a
-- longest one; after max_attempts the entry is failed and waits for a person.
create function embedding.backoff(attempts integer, first_seconds integer, longest interval)
returns interval
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  -- Compared as seconds: an interval cannot hold every product. 2 ^ 19 is enough to reach any longest wait.
  select make_interval(secs => least(
    greatest(first_seconds, 0) * 2.0 ^ (least(greatest(attempts, 1), 20) - 1), extract(epoch from longest))::float)
$$;
comment on function embedding.backoff is
  'How long to wait after this many failed attempts: first_seconds, then twice as long each time, never more than longest.';
revoke all on function embedding.backoff from public, anon, authenticated, service_role;
grant execute on function embedding.backoff to service_role;
