-- The schedule asked every collection, and left a record of each that had nothing to do: runs of no rows, for as long as
-- the server lives. Now it looks first.

create function public.has_ready_embeddings()
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  present timestamptz := clock_timestamp();
  collection integer;
begin
  -- One at a time: joined, a queue that statistics take for empty is scanned for each of them.
  for collection in select c.id from embedding.collections c loop
    perform from embedding.queue q
    where q.collection_id = collection and q.failed_at is null and q.available_at <= present
    order by q.available_at
    limit 1;
    if found then
      return true;
    end if;
  end loop;
  return false;
end;
$$;
comment on function public.has_ready_embeddings() is
  'Whether a row of any collection could be claimed now: neither leased, nor waiting for its next attempt, nor parked.';

revoke all on function public.has_ready_embeddings() from public, anon, authenticated;
grant execute on function public.has_ready_embeddings() to service_role;
