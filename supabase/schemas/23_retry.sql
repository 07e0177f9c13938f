-- The retry rule of every queue: after a failed attempt an entry waits. The wait doubles with each attempt, up to a limit;
-- after max_attempts the entry is failed until it is queued again on request.
create function embedding.backoff(attempts integer, first_seconds integer, longest interval)
returns interval language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  -- Calculate in seconds, because the product may be too large for an interval. 2 ^ 19 is enough to reach any limit.
  select make_interval(secs => least(
    greatest(first_seconds, 0) * 2.0 ^ (least(greatest(attempts, 1), 20) - 1), extract(epoch from longest))::float)
$$;
comment on function embedding.backoff is 'The wait after a failed attempt: first_seconds, doubled with each further attempt, at most longest.';
revoke all on function embedding.backoff from public, anon, authenticated, service_role;
grant execute on function embedding.backoff to service_role;

create function embedding.refuse_rows(c embedding.tracked_tables, row_ids text[], tried integer[], reasons text[])
returns void language sql security invoker set search_path = pg_catalog, pg_temp as $$
  insert into embedding.queue as q (collection_id, row_id, attempts, error, failed_at, available_at)
  select
    c.id, r.row_id, r.attempts, r.reason,
    case when r.attempts >= c.max_attempts then clock_timestamp() end,
    clock_timestamp() + embedding.backoff(r.attempts, 30, interval '1 hour')
  from (
    select u.row_id, greatest(max(u.attempts), 1) as attempts, min(u.reason) as reason
    from unnest(row_ids, tried, reasons) u (row_id, attempts, reason)
    group by u.row_id
    order by u.row_id
  ) r
  on conflict on constraint queue_pkey do update
  set attempts = excluded.attempts, error = excluded.error, failed_at = excluded.failed_at, leased_at = null,
      available_at = excluded.available_at
$$;
comment on function embedding.refuse_rows is 'Records rows whose vector could not be stored: they wait for their next attempt, or are failed after the last one.';
revoke all on function embedding.refuse_rows from public, anon, authenticated, service_role;
grant execute on function embedding.refuse_rows to service_role;

create function public.fail_embeddings(collection text, rows jsonb, retry_after_seconds integer default 30)
returns integer language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  given_up integer;
begin
  with failed as materialized (
    select v.row_id, v.error, coalesce(v.final, false) as final
    from jsonb_to_recordset(rows) as v(row_id text, error text, final boolean)
  ),
  held as materialized (
    -- A leased row with 0 attempts got a new text after it was claimed (see check_vectors). Only the old text has failed, so
    -- the row can be claimed again at once.
    select q.row_id, q.leased_at is not null and q.attempts = 0 as stale
    from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (array(select f.row_id from failed f))
    order by q.row_id for update
  ),
  updated as (
    update embedding.queue q
    set leased_at = null,
        error = case when not h.stale then left(coalesce(f.error, 'unknown'), 2000) end,
        failed_at = case when not h.stale and (f.final or q.attempts >= c.max_attempts) then clock_timestamp() end,
        available_at = clock_timestamp()
          + case when h.stale then interval '0' else embedding.backoff(q.attempts, coalesce(retry_after_seconds, 30), interval '1 hour') end
    from held h
    join failed f on f.row_id = h.row_id
    where q.collection_id = c.id and q.row_id = h.row_id
    returning q.failed_at
  )
  select count(*) filter (where u.failed_at is not null) into given_up from updated u;
  return given_up;
end;
$$;
comment on function public.fail_embeddings is
  'Records rows that could not be embedded: [{row_id, error, final}]. They wait for their next attempt, or are failed if final is true or it was the last attempt. Returns how many of them are failed.';
revoke all on function public.fail_embeddings from public, anon, authenticated, service_role;
grant execute on function public.fail_embeddings to service_role;

create function public.list_failed_embeddings(collection text, max_rows integer default 100)
returns table (row_id text, attempts integer, failed_at timestamptz, error text)
language plpgsql stable security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
begin
  return query
  select q.row_id, q.attempts, q.failed_at, q.error
  from embedding.queue q
  where q.collection_id = c.id and q.failed_at is not null
  order by q.failed_at desc, q.row_id
  limit coalesce(max_rows, 100);
end;
$$;
comment on function public.list_failed_embeddings is 'Failed rows with their errors, latest first.';
revoke all on function public.list_failed_embeddings from public, anon, authenticated, service_role;
grant execute on function public.list_failed_embeddings to service_role;

create function public.retry_failed_embeddings(collection text, row_ids text[] default null)
returns bigint language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  requeued bigint;
begin
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and (row_ids is null or q.row_id = any (row_ids)) and q.failed_at is not null
    order by q.row_id for update
  )
  update embedding.queue q
  set failed_at = null, leased_at = null, attempts = 0, available_at = clock_timestamp()
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.failed_at is not null;
  get diagnostics requeued = row_count;
  return requeued;
end;
$$;
comment on function public.retry_failed_embeddings is 'Queues failed rows again: those of row_ids, or all. Returns how many were queued.';
revoke all on function public.retry_failed_embeddings from public, anon, authenticated, service_role;
grant execute on function public.retry_failed_embeddings to service_role;
