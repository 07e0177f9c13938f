-- Tracking changes a table that may be in use. The functions below make its readers and writers wait only for a moment.
create function embedding.lock_briefly(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '400ms' as $$
begin
  -- While this lock waits, every later statement on the table waits behind it. So give up soon, and try again later.
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
comment on function embedding.lock_briefly is 'Locks a table, and makes its readers and writers wait only for a short time.';
revoke all on function embedding.lock_briefly from public, anon, authenticated, service_role;

create function embedding.lock_tracking(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Lock the collection first and then the table, in the same order as a backfill that prepares the table.
  perform from embedding.collections c
  where c.id = (select t.id from embedding.tracked_tables t where t.source = lock_tracking.source)
  for no key update;
  -- With this lock only one session at a time tracks a table. Its mode does not block readers and writers.
  execute format('lock table %s in share update exclusive mode', source);
end;
$$;
comment on function embedding.lock_tracking is 'Waits for other sessions that track, untrack or prepare the table.';
revoke all on function embedding.lock_tracking from public, anon, authenticated, service_role;
