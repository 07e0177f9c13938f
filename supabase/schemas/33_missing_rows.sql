-- The rows decide what is pending, not the queue. A row that was written while the triggers were off (logical replication, a
-- restore) is not queued, so a backfill reads the pending rows themselves before it ends.
--
-- The index over the pending rows has NULLs first, while the primary key has NULLs last. So the order that the statements
-- below ask for fits only this index. If both had the same order, the planner could read the whole primary key instead,
-- because the statistics of a table that was just loaded say that every row is pending.
create function embedding.tracking_indexes(source regclass)
returns table (name name, columns text, found regclass, usable boolean) language sql stable set search_path = pg_catalog, pg_temp as $$
  select
    -- A table that was renamed keeps the names of its indexes.
    case when exists (
      select from pg_class t join pg_index x on x.indexrelid = t.oid
      where t.relnamespace = r.relnamespace and t.relname = left(r.relname, i.length) || i.suffix and x.indrelid <> r.oid
    ) then left(r.relname, i.length - 11) || i.suffix || '_' || r.oid else left(r.relname, i.length) || i.suffix end::name,
    i.columns, f.indexrelid::regclass, coalesce(f.indisvalid, false)
  from pg_class r
  cross join lateral embedding.key_of(r.oid) k
  cross join lateral (values
    (1, 41, '_embedding_pending_idx', format('(%I nulls first) where embedding is null', k.key_column), k.key_column, 'btree', 2, '(embedding IS NULL)'),
    -- This index finds the vector that equal texts share.
    (2, 43, '_embedding_hash_idx', '(embedding_hash) where embedding is not null', 'embedding_hash', 'btree', 0, '(embedding IS NOT NULL)'),
    (3, 50, '_fts_idx', 'using gin (fts)', 'fts', 'gin', 0, null)
  ) i (place, length, suffix, columns, first_column, method, options, predicate)
  -- Look for an index with the same definition, not the same name: the table may have been renamed, or have had such an index.
  left join lateral (
    select x.indexrelid, x.indisvalid
    from pg_index x
    join pg_class n on n.oid = x.indexrelid
    join pg_am m on m.oid = n.relam
    join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
    where x.indrelid = r.oid and x.indnkeyatts = 1 and a.attname = i.first_column and m.amname = i.method
      and x.indoption[0] = i.options and pg_get_expr(x.indpred, x.indrelid) is not distinct from i.predicate
    order by x.indisvalid desc, x.indexrelid limit 1
  ) f on true
  where r.oid = tracking_indexes.source
  order by i.place
$$;
comment on function embedding.tracking_indexes is
  'The indexes of a tracked table; the index over its pending rows is the first. found is null if the index is missing. usable is true if it is complete.';
revoke all on function embedding.tracking_indexes from public, anon, authenticated, service_role;
grant execute on function embedding.tracking_indexes to service_role;
grant execute on function embedding.key_of to service_role;

create function embedding.has_pending_index(source regclass)
returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  select i.usable from embedding.tracking_indexes(has_pending_index.source) i limit 1
$$;
comment on function embedding.has_pending_index is 'Whether the index over the pending rows of a table can be used.';
revoke all on function embedding.has_pending_index from public, anon, authenticated, service_role;
grant execute on function embedding.has_pending_index to service_role;

create function embedding.missing_indexes(collection text)
returns setof text language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select s.statement
  from embedding.get_collection(missing_indexes.collection) c
  cross join lateral embedding.tracking_indexes(c.source) with ordinality i (name, columns, found, usable, place)
  cross join lateral (values
    -- Drop the incomplete index that an interrupted build leaves.
    (1, i.found is not null, format('drop index concurrently if exists %s', i.found)),
    (2, true, format('create index concurrently %I on %s %s', i.name, c.source, i.columns))
  ) s (step, needed, statement)
  where not i.usable and s.needed
  order by i.place, s.step
$$;
comment on function embedding.missing_indexes is
  'Statements that build the missing indexes of a collection without a lock on its writers. Each must run outside of a transaction, as the owner of the table.';
revoke all on function embedding.missing_indexes from public, anon, authenticated, service_role;
grant execute on function embedding.missing_indexes to service_role;

create function embedding.next_keys(c embedding.tracked_tables, after text, wanted integer, out keys text[], out last_id text)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  indexed constant boolean := not c.preparing and embedding.has_pending_index(c.source);
begin
  execute format($sql$
    select array_agg(k.key::text order by k.key) filter (where k.needed), (array_agg(k.key::text order by k.key desc))[1]
    from (select s.%1$I as key, %2$s as needed from %3$s s where %4$s %5$s order by s.%1$I %6$s limit $2) k
  $sql$, c.key_column, case when c.preparing then 'true' else 's.embedding is null' end, c.source,
    case when indexed then 's.embedding is null' else 'true' end,
    case when after is not null then format('and s.%I > $1::%s', c.key_column, c.key_type) end,
    case when indexed then 'nulls first' end)
  -- Without the index, a call reads only a part of the table, so that it ends before a timeout.
  into keys, last_id using after, case when c.preparing or indexed then wanted else 10000 end;
exception
  when others then
    perform embedding.concerns_rows(c, sqlstate, sqlerrm);
    raise;
end;
$$;
comment on function embedding.next_keys is
  'The keys of the next rows without a vector after a given key, and the last key that was read. While the collection is being prepared, the keys of all rows are returned.';
revoke all on function embedding.next_keys from public, anon, authenticated, service_role;
grant execute on function embedding.next_keys to service_role;

create function embedding.adopt_vectors(c embedding.tracked_tables, keys text[])
returns void language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
begin
  execute format($sql$
    update %2$s s
    set embedding_model = coalesce(s.embedding_model, $2),
        embedding_hash = coalesce(s.embedding_hash, embedding.text_hash(embedding.document_text(s.*))),
        -- The table may have been tracked before, and rows may have been edited since then.
        embedding = case when coalesce(substring(s.embedding_hash for 32) = embedding.text_hash(embedding.document_text(s.*)), s.embedding_hash is null)
          then s.embedding end
    from (
      select d.%1$I as key from %2$s d
      where d.%1$I = any ($1::%3$s[]) and case when d.embedding is null then false
        else d.embedding_model is null or substring(d.embedding_hash for 32) is distinct from embedding.text_hash(embedding.document_text(d.*)) end
      order by d.%1$I for no key update
    ) found
    where s.%1$I = found.key
  $sql$, c.key_column, c.source, c.key_type) using keys, embedding.default_model(c.source);
end;
$$;
comment on function embedding.adopt_vectors is
  'Accepts vectors that the table already has: they are assumed to belong to its present texts and to the model that was given to track_embeddings. The triggers raise an error for a model that is not registered or has another width.';
revoke all on function embedding.adopt_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.adopt_vectors to service_role;
grant execute on function embedding.default_model to service_role;

create function embedding.fill_full_text(c embedding.tracked_tables, keys text[])
returns void language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
begin
  if embedding.computes_fts(c.source) then
    -- The trigger computes fts.
    execute format($sql$
      update %2$s s set fts = null
      from (
        select d.%1$I as key from %2$s d where d.%1$I = any ($1::%3$s[]) and (d.fts is null %4$s) order by d.%1$I for no key update
      ) outdated
      where s.%1$I = outdated.key
    $sql$, c.key_column, c.source, c.key_type, case when c.preparing then format(
      -- fts may be that of an earlier text or configuration.
      'or d.fts is distinct from embedding.fit_lexemes(%L::regconfig, coalesce(embedding.document_text(d.*), %L))', c.text_config, '') end)
    using keys;
  end if;
end;
$$;
comment on function embedding.fill_full_text is 'Computes fts of these rows if it is missing or, while the collection is being prepared, if it is that of an earlier text.';
revoke all on function embedding.fill_full_text from public, anon, authenticated, service_role;
grant execute on function embedding.fill_full_text to service_role;

create function embedding.prepare_rows(c embedding.tracked_tables, keys text[])
returns void language plpgsql security invoker
-- lock_timeout is short: while a batch waits for a locked row, writers would wait for the other rows of the batch.
set search_path = pg_catalog, pg_temp set lock_timeout = '300ms' as $$
declare
  key text;
begin
  if c.preparing then
    perform embedding.adopt_vectors(c, keys);
  end if;
  perform embedding.fill_full_text(c, keys);
exception
  when others then
    -- 22023 means that a vector has an unknown model, or another width than its model. Only the user can correct this.
    if sqlstate = '22023' or not embedding.concerns_rows(c, sqlstate, sqlerrm) then
      raise;
    end if;
    if cardinality(keys) > 1 then
      foreach key in array keys loop
        perform embedding.prepare_rows(c, array[key]);
      end loop;
    end if;
    -- This row cannot be read or written. Its claim marks it as failed, and verify_embeddings reports its old vector.
end;
$$;
comment on function embedding.prepare_rows is
  'Computes missing fts of these rows and, while the collection is being prepared, accepts the vectors that they already have. A row that cannot be read or written is skipped.';
revoke all on function embedding.prepare_rows from public, anon, authenticated, service_role;
grant execute on function embedding.prepare_rows to service_role;

create function embedding.queue_missing_keys(c embedding.tracked_tables, keys text[])
returns bigint language plpgsql security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set lock_timeout = '300ms' as $$
declare
  statement constant text := format($sql$
    insert into embedding.queue (collection_id, row_id)
    select $1, s.%1$I::text
    from %2$s s cross join lateral embedding.try_document_text(s.*) t
    where s.%1$I = any ($2::%3$s[]) and (t.text is not null or t.error is not null)
      -- In a CASE, so that the rows are found by their keys alone.
      and case when s.embedding is null or s.embedding_model = any ($3) then true else false end
    order by s.%1$I
    on conflict on constraint queue_pkey do nothing
  $sql$, c.key_column, c.source, c.key_type);
  -- Use an array and no join: for a join the planner would scan the whole queue if statistics say that it is empty.
  missing constant text[] := array(
    select k from unnest(keys) k
    except
    select q.row_id from embedding.queue q where q.collection_id = c.id and q.row_id = any (keys));
  replaced constant text[] := array(select embedding.replaced_models(c));
  key text;
  queued bigint := 0;
  added bigint;
begin
  if missing <> '{}' then
    execute statement using c.id, missing, replaced;
    get diagnostics queued = row_count;
  end if;
  return queued;
exception
  when lock_not_available then
    if c.preparing then
      raise;
    end if;
    -- A transaction has written one of the rows, and so queued it, but has not ended. It may take long, so skip that row.
    perform set_config('lock_timeout', '5ms', true);
    foreach key in array missing loop
      begin
        execute statement using c.id, array[key], replaced;
        get diagnostics added = row_count;
        queued := queued + added;
      exception
        when lock_not_available then
          null;
      end;
    end loop;
    return queued;
end;
$$;
comment on function embedding.queue_missing_keys is 'Queues those of the given rows that are pending and not queued. Returns how many were queued.';
revoke all on function embedding.queue_missing_keys from public, anon, authenticated, service_role;
grant execute on function embedding.queue_missing_keys to service_role;

create function public.reconcile_embeddings(collection text, after text default null, batch_size integer default null)
returns table (
  queued bigint, last_id text, preparing boolean, missing_indexes text[], ready bigint, leased bigint, waiting bigint, failed bigint
)
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  keys text[];
begin
  queued := 0;
  preparing := c.preparing;
  if batch_size is null then
    queued := embedding.queue_pending_rows(c);
    return next;
    return;
  end if;
  if after is null then
    missing_indexes := array(select embedding.missing_indexes(collection));
    update embedding.queue q set leased_at = null, available_at = clock_timestamp()
    where q.collection_id = c.id and q.row_id = any (array(select embedding.stray_leases(c.id, clock_timestamp())));
  end if;
  if c.preparing then
    -- Only one backfill prepares a batch at a time. It reads here how far others have come, so that no row is prepared twice.
    select k.preparing, k.prepared_to into c.preparing, c.prepared_to
    from embedding.collections k where k.id = c.id for no key update skip locked;
    if not found then
      last_id := c.prepared_to;
      return next;
      return;
    end if;
  end if;
  select n.keys, n.last_id into keys, last_id
  from embedding.next_keys(c, case when c.preparing then c.prepared_to else after end, least(greatest(batch_size, 1), 10000)) n;
  begin
    perform embedding.prepare_rows(c, keys);
    queued := embedding.queue_missing_keys(c, keys);
  exception
    when lock_not_available then
      -- A transaction has locked one of the rows.
      if c.preparing then
        last_id := c.prepared_to;
        return next;
        return;
      end if;
      -- A row that was not prepared gets its fts when its vector is saved.
      queued := embedding.queue_missing_keys(c, keys);
  end;
  if c.preparing then
    update embedding.collections k
    set prepared_to = reconcile_embeddings.last_id, preparing = reconcile_embeddings.last_id is not null,
        vectors_unchecked = k.vectors_unchecked and reconcile_embeddings.last_id is not null
    where k.id = c.id;
  elsif last_id is null then
    select q.ready, q.leased, q.waiting, q.failed into ready, leased, waiting, failed from public.embedding_queue(collection) q;
  end if;
  return next;
end;
$$;
comment on function public.reconcile_embeddings is
  'Queues pending rows that the triggers did not see (disabled for a load, restored from a dump). Without batch_size it reads the whole table. '
  'With batch_size it reads so many rows without a vector, in the order of their keys after the key `after`, and fills their fts; last_id is the '
  'key to go on with, null at the end, where ready, leased, waiting and failed are the state of the queue. preparing: the table was large when it was tracked, so a batch of all of its rows was read, after the last '
  'one of any backfill; call again without `after`. missing_indexes: statements that build its indexes, where `after` is null.';
revoke all on function public.reconcile_embeddings from public, anon, authenticated, service_role;
grant execute on function public.reconcile_embeddings to service_role;

-- The scheduled worker calls this first, so that it records no run if there is nothing to do.
create function public.has_ready_embeddings()
returns boolean language plpgsql stable security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  present timestamptz := clock_timestamp();
  -- The number of pending rows at each end of their index that are compared with the queue. A load without the triggers
  -- usually adds keys at one end. Other rows are found by the next backfill, which reads all pending rows.
  looked_at constant integer := 10;
  c embedding.tracked_tables;
  keys text[];
  missing boolean;
begin
  -- Use a loop and no join: for a join the planner would scan the whole queue for each collection if statistics say that it
  -- is empty.
  for c in select t.* from embedding.tracked_tables t loop
    perform from embedding.queue q
    where q.collection_id = c.id and q.failed_at is null and q.available_at <= present
    order by q.available_at limit 1;
    if found or c.preparing or exists (select from embedding.stray_leases(c.id, present)) then
      return true;
    end if;
  end loop;
  for c in select t.* from embedding.tracked_tables t where embedding.has_pending_index(t.source) and embedding.ownership_error(t.source) is null
  loop
    begin
      execute format($sql$
        select array_agg(k.key::text) from (
          (select s.%1$I as key from %2$s s where s.embedding is null order by s.%1$I nulls first limit $1)
          union
          (select s.%1$I from %2$s s where s.embedding is null order by s.%1$I desc nulls last limit $1)
        ) k
      $sql$, c.key_column, c.source) into keys using looked_at;
      keys := array(
        select k from unnest(keys) k
        except
        select q.row_id from embedding.queue q where q.collection_id = c.id and q.row_id = any (keys));
      if keys <> '{}' then
        execute format(
          'select exists (select from %2$s s where s.%1$I = any ($1::%3$s[]) and embedding.present_text(embedding.document_text(s.*)) is not null)',
          c.key_column, c.source, c.key_type) into missing using keys;
        if missing then
          return true;
        end if;
      end if;
    exception
      when others then
        -- A table or a row cannot be read. Go on with the other collections; a run reports the error.
        if embedding.error_scope(sqlstate) = 'passing' then
          raise;
        end if;
    end;
  end loop;
  return false;
end;
$$;
comment on function public.has_ready_embeddings is
  'Whether a row of any collection can be claimed now, or is pending and missing in the queue. For the latter, only the first and the last ten pending rows of each collection are read.';
revoke all on function public.has_ready_embeddings from public, anon, authenticated, service_role;
grant execute on function public.has_ready_embeddings to service_role;
