-- Tracking changes a table that may be in use. Its readers and writers wait at most for a moment.
create function embedding.lock_briefly(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '400ms' as $$
begin
  -- Everybody else who uses the table waits behind a lock that waits, so it gives up soon and tries again later.
  for attempt in 1..60 loop
    begin
      execute format('lock table %s in access exclusive mode', source);
      return;
    exception
      when lock_not_available then
        perform pg_sleep(0.3 + random() / 5);
    end;
  end loop;
  raise exception '% is in use by a long transaction', source
    using errcode = '55P03', hint = 'Try again when that transaction has ended. See pg_stat_activity.';
end;
$$;
comment on function embedding.lock_briefly is 'Locks a table without holding up its readers and writers for long.';
revoke all on function embedding.lock_briefly from public, anon, authenticated, service_role;

create function embedding.lock_tracking(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- In the order of a backfill that prepares the table: first its collection, then the table.
  perform from embedding.collections c
  where c.id = (select t.id from embedding.tracked_tables t where t.source = lock_tracking.source)
  for no key update;
  -- Only one session at a time tracks a table. This mode lets its readers and writers pass, also while it waits.
  execute format('lock table %s in share update exclusive mode', source);
end;
$$;
comment on function embedding.lock_tracking is 'Waits for other sessions that track, untrack or prepare the table.';
revoke all on function embedding.lock_tracking from public, anon, authenticated, service_role;
