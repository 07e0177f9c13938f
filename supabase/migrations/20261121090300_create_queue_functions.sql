-- The life of a pending row: claimed under a lease, then saved, failed or released. A worker holds no
-- transaction while its provider works; a killed worker's lease simply runs out.
--
-- Plans are made for each call (force_custom_plan): a session that first met an empty queue would
-- otherwise keep a plan that reads all of it when it has grown to millions. For the same reason rows are
-- looked up by the primary key alone, with no condition that would make another index look apt.
--
-- Whatever changes several entries locks them in the order of row_id, so that a run that renews its leases
-- while it saves and fails never waits for itself in a circle.

create function public.claim_embeddings(
  collection text,
  batch_size integer default 50,
  lease_seconds integer default 300
)
returns table (row_id text, text text, text_hash text, attempts integer)
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  c embedding.collections := embedding.get_collection(collection);
  wanted integer := coalesce(batch_size, 50);
  lease interval := make_interval(secs => coalesce(lease_seconds, 300));
  claimed bigint;
  -- A variable: clock_timestamp() itself is volatile, so no index could be asked for what is before it.
  present timestamptz;
begin
  -- Supabase returns at most 1,000 rows of a call; what was leased beyond that would never reach the worker.
  if wanted not between 1 and 1000 then
    raise exception 'batch_size must be between 1 and 1000, not %', wanted using errcode = '22023';
  end if;
  if lease not between interval '1 second' and interval '1 day' then
    raise exception 'lease_seconds must be between 1 and 86400, not %', lease_seconds using errcode = '22023';
  end if;

  loop
    present := clock_timestamp();
    return query execute format($sql$
      with head as materialized (
        select q.row_id, q.attempts
        from embedding.queue q
        where q.collection_id = $1 and q.failed_at is null and q.available_at <= $2
        order by q.available_at
        limit $3
        for update skip locked
      ),
      document as materialized (
        select
          h.row_id,
          h.attempts,
          case
            when s.%1$I is not null and (s.embedding is null or s.embedding_model <> $5) then embedding.document_text(s)
          end as text
        from head h
        left join %2$s s on s.%1$I = h.row_id::%3$s
      ),
      -- The triggers keep the queue true; what slipped past them (a trigger disabled for a load) is dropped here.
      settled as (
        delete from embedding.queue q
        using document d
        where q.collection_id = $1 and q.row_id = d.row_id and d.text is null
      ),
      -- Whatever ends the worker time after time, without a word, must not be handed out for ever. Most rows
      -- of a lost batch are innocent, so this takes four times as many attempts as a reported failure.
      abandoned as (
        update embedding.queue q
        set failed_at = $2, leased_at = null,
            error = coalesce(q.error, format('no worker finished this row in %%s attempts', q.attempts))
        from document d
        where q.collection_id = $1 and q.row_id = d.row_id and d.text is not null and d.attempts >= 4 * $6
      ),
      leased as (
        update embedding.queue q
        set leased_at = $2, available_at = $2 + $4, attempts = q.attempts + 1
        from document d
        where q.collection_id = $1 and q.row_id = d.row_id and d.text is not null and d.attempts < 4 * $6
        returning q.row_id, q.attempts, d.text
      )
      select l.row_id, l.text, encode(embedding.text_hash(l.text), 'hex'), l.attempts
      from leased l
    $sql$, c.key_column, c.source, c.key_type)
    using c.id, present, wanted, lease, c.model, c.max_attempts;
    get diagnostics claimed = row_count;
    exit when claimed > 0;

    -- Nothing came of this batch: either the queue is drained, or its head was not worth a lease.
    perform from embedding.queue q
    where q.collection_id = c.id and q.failed_at is null and q.available_at <= present
    order by q.available_at
    limit 1
    for update skip locked;
    exit when not found;
  end loop;
end;
$$;
comment on function public.claim_embeddings(text, integer, integer) is
  'Lease up to batch_size pending rows to this worker, oldest first. No rows: nothing is claimable now. text_hash goes back with the vector.';

create function embedding.store_vectors(
  c embedding.collections,
  model text,
  row_ids text[],
  text_hashes bytea[],
  vectors extensions.vector[]
)
returns text[]
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  stored text[];
begin
  -- Rows are locked in key order, so that two workers never wait for each other in a circle, and
  -- compared under that lock: when a row was changed meanwhile, the lock waits for that change and the
  -- comparison sees it. What is stored leaves the queue by the table's trigger.
  execute format($sql$
    with incoming as materialized (
      select i.row_id, i.text_hash, i.embedding from unnest($1, $2, $3) as i(row_id, text_hash, embedding)
    ),
    locked as materialized (
      select
        s.%1$I as key, i.row_id, i.text_hash, i.embedding,
        embedding.text_hash(embedding.document_text(s)) = i.text_hash as fresh,
        -- saved by another worker after this one's lease had run out
        s.embedding_hash = i.text_hash and s.embedding_model = $4 as saved_before
      from incoming i
      join %2$s s on s.%1$I = i.row_id::%3$s
      order by s.%1$I
      for no key update of s
    ),
    updated as (
      update %2$s s
      set embedding = l.embedding, embedding_model = $4, embedding_hash = l.text_hash
      from locked l
      where s.%1$I = l.key and l.fresh and l.saved_before is not true
    )
    select array_agg(l.row_id) from locked l where l.fresh
  $sql$, c.key_column, c.source, c.key_type)
  into stored
  using row_ids, text_hashes, vectors, model;
  return coalesce(stored, '{}');
end;
$$;
comment on function embedding.store_vectors(embedding.collections, text, text[], bytea[], extensions.vector[]) is
  'Writes vectors beside the texts they were made from and returns the rows that hold them now; the others are stale.';

create function embedding.check_model(c embedding.collections, model text)
returns embedding.collections
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  checked embedding.collections := c;
  others boolean;
begin
  perform embedding.get_model(model);
  if checked.model is null then
    -- The first backfill decides; of two at once, the one that is second is refused like any other.
    update embedding.collections k set model = check_model.model where k.id = c.id and k.model is null;
    select k.* into strict checked from embedding.collections k where k.id = c.id;
    -- Until now vectors of any model would do; those that the table brought along of another one are pending from here on.
    execute format('select exists (select from %s s where s.embedding is not null and s.embedding_model <> $1)', c.source)
    into others using checked.model;
    if others then
      perform embedding.enqueue_pending(checked);
    end if;
  end if;
  if checked.model <> check_model.model then
    raise exception 'collection "%" is embedded with model "%", not "%"', checked.name, checked.model, check_model.model
      using errcode = '55000',
            hint = format('Configure the provider of %1$s, or move the collection: select set_collection_model(%2$L, %3$L) or backfill.py --switch-model.',
              checked.model, checked.name, check_model.model);
  end if;
  return checked;
end;
$$;
comment on function embedding.check_model(embedding.collections, text) is
  'The collection with its model set: to this one if it had none; an error that names both if it has another.';

create function public.use_collection_model(collection text, model text)
returns void
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  perform embedding.check_model(embedding.get_collection(collection), use_collection_model.model);
end;
$$;
comment on function public.use_collection_model(text, text) is
  'Before a run: sets the collection''s model if it has none, refuses another one, so that nothing is paid for vectors that could not be stored.';

create function public.save_embeddings(collection text, model text, rows jsonb)
returns table (saved integer, stale integer)
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.check_model(embedding.get_collection(collection), save_embeddings.model);
  expected integer := (embedding.get_model(save_embeddings.model)).dimensions;
  row_ids text[];
  text_hashes bytea[];
  vectors extensions.vector[];
  wrong record;
  stored text[];
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {row_id, text_hash, embedding}' using errcode = '22023';
  end if;
  -- Read once: a batch is a few hundred kilobytes of JSON.
  select array_agg(v.row_id), array_agg(decode(v.text_hash, 'hex')), array_agg(v.embedding::extensions.vector)
  into row_ids, text_hashes, vectors
  from jsonb_to_recordset(rows) as v(row_id text, text_hash text, embedding text);

  select i.row_id, i.text_hash, i.embedding, extensions.vector_dims(i.embedding) as width into wrong
  from unnest(row_ids, text_hashes, vectors) as i(row_id, text_hash, embedding)
  where i.row_id is null or i.text_hash is null or extensions.vector_dims(i.embedding) is distinct from expected
  limit 1;
  if found and (wrong.row_id is null or wrong.text_hash is null or wrong.embedding is null) then
    raise exception 'rows must hold row_id, text_hash and embedding; row "%" does not', coalesce(wrong.row_id, '<null>')
      using errcode = '22023', hint = 'Send back the row_id and text_hash that claim_embeddings gave.';
  elsif found then
    raise exception 'row "%" has % dimensions, model "%" has %', wrong.row_id, wrong.width, save_embeddings.model, expected
      using errcode = '22023', hint = 'The vector is of another model; nothing of this batch was stored.';
  end if;

  stored := embedding.store_vectors(c, save_embeddings.model, row_ids, text_hashes, vectors);
  saved := cardinality(stored);
  stale := coalesce(cardinality(row_ids), 0) - saved;
  if stale > 0 then
    -- Their new text waits, and may be had at once; a deleted row has no entry here any more.
    with held as materialized (
      select q.row_id from embedding.queue q
      where q.collection_id = c.id
        and q.row_id = any (array(select o from unnest(row_ids) o except select s from unnest(stored) s))
      order by q.row_id
      for update
    )
    update embedding.queue q
    set leased_at = null, attempts = 0, available_at = clock_timestamp()
    from held h
    where q.collection_id = c.id and q.row_id = h.row_id;
  end if;
  return next;
end;
$$;
comment on function public.save_embeddings(text, text, jsonb) is
  'Store vectors: rows is [{row_id, text_hash, embedding}]. A row whose text is no longer the one that was embedded is stale: it stays pending.';

create function public.reuse_embeddings(collection text, model text, rows jsonb)
returns setof text
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.check_model(embedding.get_collection(collection), reuse_embeddings.model);
  row_ids text[];
  text_hashes bytea[];
  vectors extensions.vector[];
begin
  execute format($sql$
    select array_agg(v.row_id), array_agg(d.embedding_hash), array_agg(d.embedding)
    from jsonb_to_recordset($1) as v(row_id text, text_hash text)
    cross join lateral (
      select s.embedding, s.embedding_hash from %1$s s
      where s.embedding_hash = decode(v.text_hash, 'hex') and s.embedding_model = $2 and s.embedding is not null
      limit 1
    ) d
  $sql$, c.source)
  into row_ids, text_hashes, vectors
  using rows, reuse_embeddings.model;
  if row_ids is null then
    return;
  end if;
  return query select unnest(embedding.store_vectors(c, reuse_embeddings.model, row_ids, text_hashes, vectors));
end;
$$;
comment on function public.reuse_embeddings(text, text, jsonb) is
  'Of the claimed rows [{row_id, text_hash}], fill those whose text the table already holds under this model. Returns the rows that are done.';

create function public.fail_embeddings(collection text, rows jsonb, retry_after_seconds integer default 30)
returns integer
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  parked integer;
begin
  with failed as materialized (
    select v.row_id, v.error, coalesce(v.final, false) as final
    from jsonb_to_recordset(rows) as v(row_id text, error text, final boolean)
  ),
  held as materialized (
    -- A leased row without an attempt has got another text since it was claimed (see check_vectors): what
    -- failed was the old one, and the new one may be had at once.
    select q.row_id, q.leased_at is not null and q.attempts = 0 as stale
    from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (array(select f.row_id from failed f))
    order by q.row_id
    for update
  ),
  updated as (
    update embedding.queue q
    set leased_at = null,
        error = case when not h.stale then left(coalesce(f.error, 'unknown'), 2000) end,
        failed_at = case when not h.stale and (f.final or q.attempts >= c.max_attempts) then clock_timestamp() end,
        -- doubles with each attempt, an hour at most
        available_at = clock_timestamp() + case when h.stale then interval '0' else least(
          make_interval(secs => greatest(coalesce(retry_after_seconds, 30), 0) * 2.0 ^ greatest(least(q.attempts, 20) - 1, 0)),
          interval '1 hour') end
    from held h
    join failed f on f.row_id = h.row_id
    where q.collection_id = c.id and q.row_id = h.row_id
    returning q.failed_at
  )
  select count(*) filter (where u.failed_at is not null) into parked from updated u;
  return parked;
end;
$$;
comment on function public.fail_embeddings(text, jsonb, integer) is
  'Report rows that could not be embedded: [{row_id, error, final}]. They back off, or are parked when final or out of attempts. Returns how many were parked.';

create function public.release_embeddings(collection text, row_ids text[])
returns integer
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  released integer;
begin
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (row_ids)
    order by q.row_id
    for update
  )
  update embedding.queue q
  set leased_at = null, available_at = clock_timestamp(), attempts = greatest(q.attempts - 1, 0)
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  get diagnostics released = row_count;
  return released;
end;
$$;
comment on function public.release_embeddings(text, text[]) is
  'Give claimed rows back untried, so that another worker has them at once. Returns how many were leased.';

create function public.renew_embeddings(collection text, row_ids text[], lease_seconds integer default 300)
returns integer
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  renewed integer;
begin
  -- A row that is being saved, failed or edited at this moment is passed over, not waited for.
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (row_ids)
    order by q.row_id
    for update skip locked
  )
  update embedding.queue q
  set available_at = clock_timestamp() + make_interval(secs => coalesce(lease_seconds, 300))
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  get diagnostics renewed = row_count;
  return renewed;
end;
$$;
comment on function public.renew_embeddings(text, text[], integer) is
  'Keep claimed rows while their provider is slow, so that leases can be short and a killed worker''s rows are soon free. Returns how many are still leased.';

create function public.embedding_queue(collection text)
returns table (ready bigint, leased bigint, waiting bigint, failed bigint, next_available_at timestamptz)
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  present timestamptz := clock_timestamp();
begin
  return query
  select
    count(*) filter (where q.failed_at is null and q.available_at <= present),
    count(*) filter (where q.failed_at is null and q.available_at > present and q.leased_at is not null),
    count(*) filter (where q.failed_at is null and q.available_at > present and q.leased_at is null),
    count(*) filter (where q.failed_at is not null),
    min(q.available_at) filter (where q.failed_at is null)
  from embedding.queue q
  where q.collection_id = c.id;
end;
$$;
comment on function public.embedding_queue(text) is
  'How long the queue is: ready to be claimed, leased to a worker, waiting for their next attempt, parked.';

create function public.reconcile_embeddings(collection text)
returns bigint
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return embedding.enqueue_pending(embedding.get_collection(collection));
end;
$$;
comment on function public.reconcile_embeddings(text) is
  'Queue pending rows that slipped past the triggers (disabled for a load, restored from a dump). Reads the whole table. Returns how many.';

create function public.retry_failed_embeddings(collection text)
returns bigint
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  requeued bigint;
begin
  update embedding.queue q
  set failed_at = null, leased_at = null, attempts = 0, available_at = clock_timestamp()
  where q.collection_id = c.id and q.failed_at is not null;
  get diagnostics requeued = row_count;
  return requeued;
end;
$$;
comment on function public.retry_failed_embeddings(text) is 'Queue the parked rows again, with all their attempts. Returns how many.';

create function public.list_failed_embeddings(collection text, max_rows integer default 100)
returns table (row_id text, attempts integer, failed_at timestamptz, error text)
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  return query
  select q.row_id, q.attempts, q.failed_at, q.error
  from embedding.queue q
  where q.collection_id = c.id and q.failed_at is not null
  order by q.failed_at desc, q.row_id
  limit coalesce(max_rows, 100);
end;
$$;
comment on function public.list_failed_embeddings(text, integer) is 'Parked rows and why, latest first.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'public.claim_embeddings(text, integer, integer)',
    'embedding.store_vectors(embedding.collections, text, text[], bytea[], extensions.vector[])',
    'embedding.check_model(embedding.collections, text)',
    'public.use_collection_model(text, text)',
    'public.save_embeddings(text, text, jsonb)',
    'public.reuse_embeddings(text, text, jsonb)',
    'public.fail_embeddings(text, jsonb, integer)',
    'public.release_embeddings(text, text[])',
    'public.renew_embeddings(text, text[], integer)',
    'public.embedding_queue(text)',
    'public.reconcile_embeddings(text)',
    'public.retry_failed_embeddings(text)',
    'public.list_failed_embeddings(text, integer)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
