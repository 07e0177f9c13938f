-- A user's table may break in three ways, and none of them may stop or pay for more than itself.
--
-- Its columns may be named like anything, so no alias stands alone as a row: `document_text(s)` was the column s where there
-- was one. `s.*` is always the row.
--
-- embedding.document_text is the user's own and may raise. For one row: that row is parked with the error, and whatever reads
-- many rows reads the others (the same statement a second time, with a reader that catches; the first costs nothing more).
-- For every row, because the table or the function is not what it was: the collection is reported broken, under its name and
-- with the fix, and the other collections go on.
--
-- A table may not keep what is written into it: a trigger that drops the vector, or that changes the text on each write. So
-- what was saved is counted from the rows afterwards, and a vector that was not kept counts as an attempt.

create function embedding.error_scope(state text)
returns text
language sql
immutable
set search_path = ''
return case
  -- connection, read-only, locks, resources, shutdown, and our own refusals
  when left(state, 2) in ('08', '25', '28', '40', '53', '55', '57', '58') then 'passing'
  when left(state, 2) in ('0A', '3F', '42') then 'table'
  else 'row'
end;
comment on function embedding.error_scope(text) is
  'What an SQLSTATE met while rows are read or written is about: passing (the moment), table (columns, functions, grants) or row.';

create function embedding.error_reason(state text, message text, document jsonb)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  -- PostgreSQL quotes the value that it could not read.
  reason text := regexp_replace(message, '".*"', '"..."');
  held text;
begin
  -- What the user's own code raises may repeat the row.
  for held in
    select v.value from jsonb_each_text(document - array['embedding', 'fts']) v
    where char_length(v.value) > 3
    order by char_length(v.value) desc
  loop
    reason := replace(reason, held, '...');
  end loop;
  return format('%s (SQLSTATE %s)', left(reason, 500), state);
end;
$$;
comment on function embedding.error_reason(text, text, jsonb) is
  'An error''s message without the values of the row that it is about: it is shown to whoever may see that the row was parked.';

create function embedding.try_document_text(document anyelement, out text text, out error text)
language plpgsql
stable
set search_path = ''
as $$
begin
  text := embedding.document_text(document);
exception
  when others then
    if embedding.error_scope(sqlstate) = 'passing' then
      raise;
    end if;
    error := 'embedding.document_text: ' || embedding.error_reason(sqlstate, sqlerrm, to_jsonb(document));
end;
$$;
comment on function embedding.try_document_text(anyelement) is
  'The text of a row, or why there is none. Slower than document_text: only for rows among which one is known to raise.';

create function embedding.document_reader(safely boolean)
returns text
language sql
immutable
set search_path = ''
return case
  when safely then 'embedding.try_document_text(s.*)'
  else '(select embedding.document_text(s.*) as text, null::text as error)'
end;
comment on function embedding.document_reader(boolean) is
  'What a statement joins to the rows s of a tracked table, as t (text, error), to read their texts.';

create function embedding.collection_error(c embedding.collections)
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  readable boolean;
begin
  begin
    execute format('select s.%I = null::%s, s.embedding, s.embedding_model, s.embedding_hash from %s s limit 0', c.key_column, c.key_type, c.source);
  exception
    when others then
      if embedding.error_scope(sqlstate) <> 'table' then
        raise;
      end if;
      return sqlerrm;
  end;
  begin
    execute format('select embedding.document_text(s.*) from %s s limit 1', c.source);
  exception
    when others then
      if embedding.error_scope(sqlstate) = 'passing' then
        raise;
      end if;
      -- A single row may name a configuration or a table that there is not; then others can be read.
      if embedding.error_scope(sqlstate) = 'table' then
        execute format(
          'select bool_or(r.error is null) from (select t.error from %s s cross join lateral embedding.try_document_text(s.*) t limit 100) r',
          c.source)
        into readable;
        return case when readable is not true then sqlerrm end;
      end if;
  end;
  return null;
end;
$$;
comment on function embedding.collection_error(embedding.collections) is
  'Why no row of the collection can be read: a column, its document_text or a grant is gone. Null: rows can be read, though not each of them perhaps.';

create function embedding.collection_remedy(c embedding.collections)
returns text
language sql
stable
set search_path = ''
return format('Mend the table or embedding.document_text(%1$s), then: select track_embeddings(%2$L); to give it up: select untrack_embeddings(%3$L).',
  c.source::text, c.source::text, c.name);
comment on function embedding.collection_remedy(embedding.collections) is 'What to do about a collection whose rows cannot be read.';

create function embedding.concerns_rows(c embedding.collections, state text, message text)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  if embedding.error_scope(state) = 'passing' then
    return false;
  end if;
  if embedding.error_scope(state) = 'table' and embedding.collection_error(c) is not null then
    raise exception 'collection "%" cannot be read: %', c.name, message
      using errcode = '55000', hint = embedding.collection_remedy(c);
  end if;
  return true;
end;
$$;
comment on function embedding.concerns_rows(embedding.collections, text, text) is
  'Whether an error met over several rows is about some of them, so that the others can be had. Raises where it is about the table as a whole.';

create function public.broken_embedding_collections()
returns table (collection text, error text)
language sql
stable
security invoker
set search_path = ''
as $$
  select k.name, format('%s. %s', e.error, embedding.collection_remedy(k))
  from embedding.collections k
  join pg_catalog.pg_class r on r.oid = k.source -- the table may have been dropped
  cross join lateral embedding.collection_error(k) e (error)
  where e.error is not null
  order by k.name
$$;
comment on function public.broken_embedding_collections() is
  'The collections of which no row can be read, why, and what to do. Looks at one row of each that is well.';

create function embedding.unkept_reason()
returns text
language sql
immutable
set search_path = ''
return 'the table does not keep the vector: a trigger of its own drops it, or changes the text whenever the row is written';
comment on function embedding.unkept_reason() is 'Why a row is parked that was given its vector and did not hold it afterwards.';

-- Claiming

create function embedding.lease_rows(c embedding.collections, wanted integer, lease interval, present timestamptz)
returns table (row_id text, text text, text_hash text, attempts integer)
language plpgsql
security invoker
set search_path = ''
as $$
begin
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
          when s.%1$I is not null and (s.embedding is null or s.embedding_model <> $5) then embedding.document_text(s.*)
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
end;
$$;
comment on function embedding.lease_rows(embedding.collections, integer, interval, timestamptz) is
  'The head of the queue, leased. A function of its own so that none of its rows is returned where one raises.';

create function embedding.park_unreadable(c embedding.collections, wanted integer, present timestamptz)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  parked integer;
begin
  execute format($sql$
    with head as materialized (
      select q.row_id
      from embedding.queue q
      where q.collection_id = $1 and q.failed_at is null and q.available_at <= $2
      order by q.available_at
      limit $3
      for update skip locked
    ),
    unreadable as materialized (
      select h.row_id, t.error
      from head h
      join %2$s s on s.%1$I = h.row_id::%3$s
      cross join lateral embedding.try_document_text(s.*) t
      where (s.embedding is null or s.embedding_model <> $4) and t.error is not null
    )
    update embedding.queue q
    set failed_at = $2, leased_at = null, attempts = q.attempts + 1, error = u.error
    from unreadable u
    where q.collection_id = $1 and q.row_id = u.row_id
  $sql$, c.key_column, c.source, c.key_type)
  using c.id, present, wanted, c.model;
  get diagnostics parked = row_count;
  return parked;
end;
$$;
comment on function embedding.park_unreadable(embedding.collections, integer, timestamptz) is
  'Parks the rows at the head of the queue whose text cannot be read, each with its error. Returns how many.';

create or replace function public.claim_embeddings(
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
  tries integer := 0;
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
    begin
      return query select r.* from embedding.lease_rows(c, wanted, lease, present) r;
      get diagnostics claimed = row_count;
    exception
      when others then
        if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
          raise;
        end if;
        tries := tries + 1;
        -- None: another worker has the row in hand that raised, and will park it.
        if embedding.park_unreadable(c, wanted, present) = 0 and tries >= 20 then
          raise;
        end if;
        -- A call is bounded; the next one goes on with what is left.
        exit when tries >= 20;
        continue;
    end;
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

create function embedding.lease_named_rows(c embedding.collections, row_ids text[], lease interval, safely boolean)
returns table (asked_id text, row_id text, state text, text text, text_hash text, attempts integer)
language plpgsql
security invoker
set search_path = ''
as $$
begin
  return query execute format($sql$
    with asked as materialized (
      select a.asked_id, embedding.canonical_key(a.asked_id, $2) as row_id, a.place
      from unnest($3) with ordinality a (asked_id, place)
    ),
    document as materialized (
      select
        k.row_id,
        -- null: there is no such row
        s.embedding is not null and s.embedding_model = $4 as embedded,
        t.text,
        t.error,
        -- A webhook that each save sets off would ask for it by name for ever.
        (s.embedding is null or s.embedding_model is distinct from $4) and exists (
          select from embedding.queue q
          where q.collection_id = $1 and q.row_id = k.row_id and q.failed_at is not null and q.error = embedding.unkept_reason()
        ) as unkept
      from (select distinct a.row_id from asked a where a.row_id is not null) k
      join %2$s s on s.%1$I = k.row_id::%3$s
      cross join lateral %4$s t
    ),
    -- In key order, so that two workers never wait for each other in a circle. A row that another worker holds stays
    -- its own; a parked row, or one that backs off, is tried at once: somebody asks for it by name.
    leased as (
      insert into embedding.queue as q (collection_id, row_id, attempts, leased_at, available_at)
      select $1, d.row_id, 1, $5, $5 + $6
      from document d
      where d.text is not null and d.embedded is not true and not d.unkept
      order by d.row_id
      on conflict on constraint queue_pkey do update
      set attempts = case when q.failed_at is null then q.attempts else 0 end + 1,
          leased_at = excluded.leased_at,
          available_at = excluded.available_at,
          failed_at = null
      where q.leased_at is null or q.available_at <= $5
      returning q.row_id, q.attempts
    ),
    parked as (
      insert into embedding.queue as q (collection_id, row_id, attempts, failed_at, error)
      select $1, d.row_id, 1, $5, d.error
      from document d
      where d.error is not null and d.embedded is not true
      order by d.row_id
      on conflict on constraint queue_pkey do update
      set failed_at = excluded.failed_at, leased_at = null, error = excluded.error
      where q.leased_at is null or q.available_at <= $5
    )
    select
      a.asked_id,
      d.row_id,
      case
        when d.row_id is null then 'missing'
        when d.error is not null then 'unreadable'
        when d.text is null then 'empty'
        when d.embedded then 'embedded'
        when d.unkept then 'unkept'
        when l.row_id is null then 'leased'
        else 'claimed'
      end,
      case when not d.unkept then d.text end,
      encode(embedding.text_hash(d.text), 'hex'),
      l.attempts
    from asked a
    left join document d on d.row_id = a.row_id
    left join leased l on l.row_id = a.row_id
    order by a.place
  $sql$, c.key_column, c.source, c.key_type, embedding.document_reader(safely))
  using c.id, c.key_type, row_ids, c.model, clock_timestamp(), lease;
end;
$$;
comment on function embedding.lease_named_rows(embedding.collections, text[], interval, boolean) is
  'What claim_embedding_rows does, as far as a text that cannot be read; safely, such a row is parked and the others are leased.';

create or replace function public.claim_embedding_rows(collection text, row_ids text[], lease_seconds integer default 300)
returns table (asked_id text, row_id text, state text, text text, text_hash text, attempts integer)
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  c embedding.collections := embedding.get_collection(collection);
  lease interval := make_interval(secs => coalesce(lease_seconds, 300));
begin
  if coalesce(cardinality(row_ids), 0) not between 1 and 10000 then
    raise exception 'row_ids must hold between 1 and 10000 ids, not %', coalesce(cardinality(row_ids), 0) using errcode = '22023';
  end if;
  if lease not between interval '1 second' and interval '1 day' then
    raise exception 'lease_seconds must be between 1 and 86400, not %', lease_seconds using errcode = '22023';
  end if;

  begin
    return query select r.* from embedding.lease_named_rows(c, row_ids, lease, false) r;
  exception
    when others then
      if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
        raise;
      end if;
      return query select r.* from embedding.lease_named_rows(c, row_ids, lease, true) r;
  end;
end;
$$;
comment on function public.claim_embedding_rows(text, text[], integer) is
  'Lease the rows with these keys, whatever their place in the queue. One row for each id, in order; state is claimed, '
  'embedded (nothing to do), leased (another worker has it), empty (no text to embed), unreadable (its document_text raises: parked), '
  'unkept (parked since the table does not keep its vector: retry it once that is mended) or missing (no such row).';

-- Saving

create function embedding.refuse_rows(c embedding.collections, row_ids text[], tried integer[], reasons text[])
returns void
language sql
security invoker
set search_path = ''
as $$
  insert into embedding.queue as q (collection_id, row_id, attempts, error, failed_at, available_at)
  select
    c.id, r.row_id, r.attempts, r.reason,
    case when r.attempts >= c.max_attempts then clock_timestamp() end,
    -- as fail_embeddings has it
    clock_timestamp() + least(make_interval(secs => 30 * 2.0 ^ (least(r.attempts, 20) - 1)), interval '1 hour')
  from (
    select u.row_id, greatest(max(u.attempts), 1) as attempts, min(u.reason) as reason
    from unnest(row_ids, tried, reasons) u (row_id, attempts, reason)
    group by u.row_id
    order by u.row_id
  ) r
  on conflict on constraint queue_pkey do update
  set attempts = excluded.attempts,
      error = excluded.error,
      failed_at = excluded.failed_at,
      leased_at = null,
      available_at = excluded.available_at
$$;
comment on function embedding.refuse_rows(embedding.collections, text[], integer[], text[]) is
  'Rows that could not be given their vector, after so many attempts: they back off, or are parked when out of attempts.';

create function embedding.store_singly(c embedding.collections, model text, row_ids text[], text_hashes bytea[], vectors extensions.vector[])
returns text[]
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  stored text[] := '{}';
  failed integer := 0;
  failed_with text;
  reason text;
  entry record;
  document jsonb;
begin
  -- In the order that whole batches are locked in.
  for entry in execute format(
    'select i.row_id, i.text_hash, i.embedding from unnest($1, $2, $3) as i(row_id, text_hash, embedding) order by i.row_id::%s', c.key_type)
    using row_ids, text_hashes, vectors
  loop
    begin
      stored := stored || embedding.store_batch(c, model, array[entry.row_id], array[entry.text_hash], array[entry.embedding]);
    exception
      when others then
        if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
          raise;
        end if;
        execute format('select to_jsonb(s.*) from %s s where s.%I = $1::%s', c.source, c.key_column, c.key_type) into document using entry.row_id;
        reason := 'the vector could not be written: ' || embedding.error_reason(sqlstate, sqlerrm, document);
        perform embedding.refuse_rows(c, array[entry.row_id],
          array[(select q.attempts from embedding.queue q where q.collection_id = c.id and q.row_id = entry.row_id)],
          array[reason]);
        failed := failed + 1;
        failed_with := sqlstate;
    end;
  end loop;
  -- What every row of a batch meets is not about a row: the run ends, rather than pay for the whole table in vain.
  if failed > 1 and failed = cardinality(row_ids) then
    raise exception using errcode = failed_with, message = reason;
  end if;
  return stored;
end;
$$;
comment on function embedding.store_singly(embedding.collections, text, text[], bytea[], extensions.vector[]) is
  'store_vectors after a row of the batch has raised: each row by itself. Those that raise again count an attempt and say why.';

create function embedding.store_batch(c embedding.collections, model text, row_ids text[], text_hashes bytea[], vectors extensions.vector[])
returns text[]
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  written text[];
  tried integer[];
  held bigint;
  kept text[];
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
        embedding.text_hash(embedding.document_text(s.*)) = i.text_hash as fresh,
        -- saved by another worker after this one's lease had run out
        s.embedding_hash = i.text_hash and s.embedding_model = $4 as saved_before,
        -- asked now: the triggers know the row no more once it has its vector
        coalesce((select q.attempts from embedding.queue q where q.collection_id = $5 and q.row_id = i.row_id), 0) as attempts
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
    select array_agg(l.row_id), array_agg(l.attempts) from locked l where l.fresh
  $sql$, c.key_column, c.source, c.key_type)
  into written, tried
  using row_ids, text_hashes, vectors, model, c.id;
  if written is null then
    return '{}';
  end if;
  -- Seen from here, after the table's triggers: what they took back was not stored, whatever the statement above has written.
  execute format(
    'select count(*) from %s s where s.%I = any ($1::%s[]) and s.embedding is not null and s.embedding_model = $2',
    c.source, c.key_column, c.key_type)
  into held
  using written, model;
  if held = cardinality(written) then
    return written;
  end if;

  -- Some did not keep it.
  execute format($sql$
    select array_agg(i.row_id)
    from unnest($1, $2) as i(row_id, text_hash)
    join %2$s s on s.%1$I = i.row_id::%3$s
    where s.embedding_hash = i.text_hash and s.embedding_model = $3 and s.embedding is not null
  $sql$, c.key_column, c.source, c.key_type)
  into kept
  using row_ids, text_hashes, model;
  kept := coalesce(kept, '{}');
  perform embedding.refuse_rows(c, array_agg(w.row_id), array_agg(w.attempts), array_agg(embedding.unkept_reason()))
  from unnest(written, tried) w (row_id, attempts)
  where w.row_id <> all (kept);
  return kept;
end;
$$;
comment on function embedding.store_batch(embedding.collections, text, text[], bytea[], extensions.vector[]) is
  'What store_vectors does, as far as a row that raises.';

create or replace function embedding.store_vectors(
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
begin
  return embedding.store_batch(c, model, row_ids, text_hashes, vectors);
exception
  when others then
    if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
      raise;
    end if;
    return embedding.store_singly(c, model, row_ids, text_hashes, vectors);
end;
$$;
comment on function embedding.store_vectors(embedding.collections, text, text[], bytea[], extensions.vector[]) is
  'Writes vectors beside the texts they were made from and returns the rows that hold them now. The others are stale, or were refused by the table: those have counted an attempt.';

create or replace function public.save_embeddings(collection text, model text, rows jsonb)
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
    -- Their new text waits, and may be had at once; a deleted row has no entry here any more. A write that changed the text
    -- has set attempts to 0. Where none did, the text is another one each time it is read, and is not paid for for ever.
    -- (No lease: the row was refused, and has its wait and its reason already.)
    with held as materialized (
      select q.row_id from embedding.queue q
      where q.collection_id = c.id
        and q.row_id = any (array(select o from unnest(row_ids) o except select s from unnest(stored) s))
      order by q.row_id
      for update
    )
    update embedding.queue q
    set leased_at = null,
        available_at = clock_timestamp(),
        failed_at = case when q.attempts >= c.max_attempts then clock_timestamp() end,
        error = case
          when q.attempts > 0 then 'the text was another one when its vector came, though nobody wrote the row: '
            'embedding.document_text must return the same text for the same row'
        end
    from held h
    where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  end if;
  return next;
end;
$$;
comment on function public.save_embeddings(text, text, jsonb) is
  'Store vectors: rows is [{row_id, text_hash, embedding}]. saved counts the rows that hold theirs afterwards. The others are stale: their text is no longer the one that was embedded, or the table did not keep the vector; they stay pending, or are parked when out of attempts.';

create or replace function public.reuse_embeddings(collection text, model text, rows jsonb)
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
  exception
    when others then
      perform embedding.concerns_rows(c, sqlstate, sqlerrm);
      raise;
  end;
  if row_ids is null then
    return;
  end if;
  return query select unnest(embedding.store_vectors(c, reuse_embeddings.model, row_ids, text_hashes, vectors));
end;
$$;

-- Everything else that reads many rows

create function embedding.queue_pending(c embedding.collections)
returns bigint
language plpgsql
security invoker
set search_path = ''
as $$
declare
  statement constant text := $sql$
    insert into embedding.queue (collection_id, row_id)
    select $1, s.%1$I::text
    from %2$s s
    cross join lateral %3$s t
    where (s.embedding is null or s.embedding_model <> $2)
      and (t.text is not null or t.error is not null)
    order by s.%1$I
    on conflict on constraint queue_pkey do nothing
  $sql$;
  queued bigint;
begin
  begin
    execute format(statement, c.key_column, c.source, embedding.document_reader(false)) using c.id, c.model;
    get diagnostics queued = row_count;
  exception
    when others then
      if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
        raise;
      end if;
      execute format(statement, c.key_column, c.source, embedding.document_reader(true)) using c.id, c.model;
      get diagnostics queued = row_count;
  end;
  return queued;
end;
$$;
comment on function embedding.queue_pending(embedding.collections) is
  'Queues every row that has no vector of the collection''s model and a text, or one that cannot be read: the claim parks it. Returns how many were not queued yet.';

create or replace function public.reconcile_embeddings(collection text)
returns bigint
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return embedding.queue_pending(embedding.get_collection(collection));
end;
$$;

create or replace function embedding.check_model(c embedding.collections, model text)
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
      perform embedding.queue_pending(checked);
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

create or replace function public.set_collection_model(collection text, model text)
returns bigint
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  perform embedding.get_model(set_collection_model.model);
  update embedding.collections k
  set model = set_collection_model.model,
      retiring_models = array(
        select distinct r.name
        from unnest(k.retiring_models || k.model) as r(name)
        where r.name is not null and r.name <> set_collection_model.model
        order by r.name
      )
  where k.id = c.id
  returning k.* into strict c;
  -- Rows that waited for the model that is given up, but hold a vector of this one, are done already.
  execute format($sql$
    delete from embedding.queue q using %2$s s
    where q.collection_id = $1 and s.%1$I = q.row_id::%3$s and s.embedding_model = $2
  $sql$, c.key_column, c.source, c.key_type)
  using c.id, c.model;
  return embedding.queue_pending(c);
end;
$$;

create function embedding.count_vectors(c embedding.collections, safely boolean, out embedded bigint, out pending bigint, out models jsonb)
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  execute format($sql$
    with held as (
      select s.embedding_model, count(*) as vectors from %1$s s where s.embedding is not null group by 1
    )
    select
      coalesce(sum(h.vectors) filter (where h.embedding_model = coalesce($1, h.embedding_model)), 0),
      coalesce(sum(h.vectors) filter (where h.embedding_model <> $1), 0)
        + (select count(*) from %1$s s cross join lateral %2$s t where s.embedding is null and (t.text is not null or t.error is not null)),
      coalesce(jsonb_object_agg(coalesce(h.embedding_model, ''), h.vectors), '{}')
    from held h
  $sql$, c.source, embedding.document_reader(safely))
  into embedded, pending, models
  using c.model;
end;
$$;
comment on function embedding.count_vectors(embedding.collections, boolean) is
  'Rows with a vector of the collection''s model, rows that want one, and vectors by model. Safely, a text that cannot be read counts as one that waits.';

create function embedding.count_known_vectors(c embedding.collections, out embedded bigint, out pending bigint, out models jsonb)
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  begin
    execute format($sql$
      with held as (
        select s.embedding_model, count(*) as vectors from %1$s s where s.embedding is not null group by 1
      )
      select
        coalesce(sum(h.vectors) filter (where h.embedding_model = coalesce($1, h.embedding_model)), 0),
        coalesce(jsonb_object_agg(coalesce(h.embedding_model, ''), h.vectors), '{}')
      from held h
    $sql$, c.source)
    into embedded, models
    using c.model;
  exception
    when others then
      if embedding.error_scope(sqlstate) = 'passing' then
        raise;
      end if;
      -- The columns of the vectors themselves are gone.
      embedded := 0;
      models := '{}';
  end;
  select count(*) into pending from embedding.queue q where q.collection_id = c.id;
end;
$$;
comment on function embedding.count_known_vectors(embedding.collections) is
  'The same of a table whose texts cannot be read: what is queued stands for what is pending.';

create or replace function public.embedding_coverage()
returns table (
  collection text,
  model text,
  total bigint,
  embedded bigint,
  pending bigint,
  failed bigint,
  leased bigint,
  -- vectors by the model that made them; more than one key while a switch is under way
  models jsonb
)
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections;
begin
  for c in
    select k.* from embedding.collections k
    join pg_catalog.pg_class r on r.oid = k.source -- the table may have been dropped
    order by k.name
  loop
    collection := c.name;
    model := c.model;
    select count(*) filter (where q.failed_at is not null),
           count(*) filter (where q.failed_at is null and q.leased_at is not null and q.available_at > clock_timestamp())
    into failed, leased
    from embedding.queue q where q.collection_id = c.id;

    begin
      select v.* into embedded, pending, models from embedding.count_vectors(c, false) v;
    exception
      when others then
        -- One broken table is no reason to know nothing of the others.
        if embedding.error_scope(sqlstate) = 'passing' then
          raise;
        elsif embedding.collection_error(c) is null then
          select v.* into embedded, pending, models from embedding.count_vectors(c, true) v;
        else
          select v.* into embedded, pending, models from embedding.count_known_vectors(c) v;
        end if;
    end;
    total := embedded + pending;
    failed := least(failed, pending);
    pending := pending - failed;
    return next;
  end loop;
end;
$$;
comment on function public.embedding_coverage() is
  'One row a collection: total = embedded + pending + failed, counted from the table itself; leased rows are among the pending. Of a table whose rows cannot be read (broken_embedding_collections), what is queued stands for what is pending.';

create function embedding.compare_rows(c embedding.collections, max_rows integer, safely boolean)
returns table (row_id text, reason text, unreadable boolean)
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return query execute format($sql$
    select checked.key::text, checked.reason, checked.unreadable
    from (
      select
        s.%1$I as key,
        t.error is not null as unreadable,
        case
          when t.error is not null then 'whether the vector is of this text cannot be told: ' || t.error
          when t.text is null then 'has a vector, but no text to embed'
          when s.embedding_hash is distinct from embedding.text_hash(t.text) then 'the vector is of another text'
          when m.name is null then 'the vector names no registered model'
          when extensions.vector_dims(s.embedding) <> m.dimensions then 'the vector has not the width of its model'
        end as reason
      from %2$s s
      cross join lateral %3$s t
      left join embedding.models m on m.name = s.embedding_model
      where s.embedding is not null
    ) checked
    where checked.reason is not null
    limit $1
  $sql$, c.key_column, c.source, embedding.document_reader(safely))
  using max_rows;
end;
$$;
comment on function embedding.compare_rows(embedding.collections, integer, boolean) is
  'What mismatched_rows returns, as far as a row whose text cannot be read; safely, such a row is among them.';

create function embedding.mismatched_rows(c embedding.collections, max_rows integer)
returns table (row_id text, reason text, unreadable boolean)
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return query select r.* from embedding.compare_rows(c, max_rows, false) r;
exception
  when others then
    if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
      raise;
    end if;
    return query select r.* from embedding.compare_rows(c, max_rows, true) r;
end;
$$;
comment on function embedding.mismatched_rows(embedding.collections, integer) is
  'Rows whose vector does not belong to their present text or model, or whose text cannot be read to tell, with the reason.';

create or replace function public.mismatched_embeddings(collection text, max_rows integer default 100)
returns table (row_id text, reason text)
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  return query select r.row_id, r.reason from embedding.mismatched_rows(c, max_rows) r;
end;
$$;
comment on function public.mismatched_embeddings(text, integer) is
  'Rows whose vector does not belong to their present text or model, or whose text cannot be read to tell, with the reason. max_rows null: all of them.';

create or replace function public.repair_embeddings(collection text)
returns bigint
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  repaired bigint;
begin
  -- A row whose text cannot be read cannot be written either: its triggers read it.
  execute format($sql$
    update %2$s s set embedding = null
    from unnest($1) wrong (row_id)
    where s.%1$I = wrong.row_id::%3$s
  $sql$, c.key_column, c.source, c.key_type)
  using array(select r.row_id from embedding.mismatched_rows(c, null) r where not r.unreadable);
  get diagnostics repaired = row_count;
  return repaired;
end;
$$;

create or replace function public.estimate_embeddings(collection text, model text, sample_size integer default 1000)
returns table (rows bigint, texts bigint, characters bigint, sample text[])
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  -- One row: where the first reading raises, nothing of it was returned.
  statement constant text := $sql$
    with pending as (
      select t.text as document
      from %2$s s
      cross join lateral %3$s t
      where (s.embedding is null or s.embedding_model is distinct from $2)
        and not exists (
          select from embedding.queue q
          where q.collection_id = $1 and q.row_id = s.%1$I::text and q.failed_at is not null
        )
    ),
    -- Equal texts are paid once, texts that the table holds under this model not at all.
    payable as (
      select distinct p.document
      from pending p
      where p.document is not null
        and not exists (
          select from %2$s s
          where s.embedding_hash = embedding.text_hash(p.document) and s.embedding_model = $2 and s.embedding is not null
        )
    )
    select
      (select count(*) from pending p where p.document is not null),
      count(*),
      coalesce(sum(char_length(t.document)), 0)::bigint,
      coalesce((select array_agg(x.document) from (select y.document from payable y limit $3) x), '{}')
    from payable t
  $sql$;
begin
  begin
    return query execute format(statement, c.key_column, c.source, embedding.document_reader(false)) using c.id, model, sample_size;
  exception
    when others then
      if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
        raise;
      end if;
      return query execute format(statement, c.key_column, c.source, embedding.document_reader(true)) using c.id, model, sample_size;
  end;
end;
$$;

create or replace function public.sample_embeddings(
  collection text,
  model text,
  sample_size integer default 2000,
  category_column text default null
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  label_column text := (embedding.collection_columns(c)).label_column;
  label_sql constant text := case when label_column is null then 'null' else format('s.%I::text', label_column) end;
  category_sql constant text := case when category_column is null then 'null' else format('s.%I::text', category_column) end;
  statement constant text := $sql$
    with head as materialized (
      select
        s.%1$I::text as id,
        left(coalesce(nullif(btrim(%3$s), ''), t.text), 120) as label,
        left(%4$s, 120) as category,
        extensions.l2_normalize(s.embedding)::extensions.halfvec as vector,
        row_number() over (order by s.embedding_hash, s.%1$I) as place
      from %2$s s
      cross join lateral %5$s t
      where s.embedding is not null and s.embedding_model = $1
      order by s.embedding_hash, s.%1$I
      limit $2
    )
    select jsonb_build_object(
      'total', (select count(*) from %2$s s where s.embedding is not null and s.embedding_model = $1),
      'ids', coalesce(jsonb_agg(h.id order by h.place), '[]'),
      'labels', coalesce(jsonb_agg(h.label order by h.place), '[]'),
      'categories', coalesce(jsonb_agg(h.category order by h.place), '[]'),
      -- Its wire format without the four bytes of the width: two bytes a number, the high one first.
      'vectors', coalesce(encode(string_agg(substring(extensions.halfvec_send(h.vector) from 5), ''::bytea order by h.place), 'base64'), '')
    )
    from head h
  $sql$;
  sampled jsonb;
begin
  if sample_size not between 1 and 2000 then
    raise exception 'sample_size must be between 1 and 2000, not %', sample_size using errcode = '22023';
  end if;
  if category_column is not null and not exists (select from embedding.text_columns(c) t where t.attname = category_column) then
    raise exception 'category: "%" is no column of "%" to colour by', category_column, c.name
      using errcode = '22023',
            hint = format('There are: %s.',
              coalesce(nullif(array_to_string((embedding.collection_columns(c)).category_columns, ', '), ''), 'none'));
  end if;
  -- The rows whose text has the smallest SHA-256: as good as drawn by lot, the same for the same rows wherever they
  -- lie, and the head of an index that is there anyway (embedding_hash, where there is a vector). So a million rows
  -- are neither scanned nor sorted, as a hash of the key would ask for; a table sample would change with the layout.
  -- Unit length and half precision are enough for a map, and a quarter of the text of the numbers.
  -- One value: Supabase returns at most 1,000 rows of a call.
  begin
    execute format(statement, c.key_column, c.source, label_sql, category_sql, embedding.document_reader(false)) into sampled using model, sample_size;
  exception
    when others then
      if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
        raise;
      end if;
      execute format(statement, c.key_column, c.source, label_sql, category_sql, embedding.document_reader(true)) into sampled using model, sample_size;
  end;
  return sampled;
end;
$$;

-- Names: d.* is the row, whatever its columns are called.

create or replace function embedding.describing_columns(c embedding.collections)
returns table (column_name name, is_text boolean, values_held double precision, distinct_values double precision)
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  uncounted text;
  counted jsonb := '{}';
begin
  -- Statistics are there once the table was analyzed; before, its first rows have to do.
  select string_agg(format('jsonb_build_array(count(s.%1$I), count(distinct s.%1$I)) as %1$I', d.attname), ', ') into uncounted
  from embedding.text_columns(c) d
  where d.n_distinct is null;
  if uncounted is not null then
    begin
      execute format('select to_jsonb(d.*) from (select %s from (select * from %s limit 1000) s) d', uncounted, c.source) into counted;
    exception
      when others then
        -- A table that may not be read describes nothing, and hides no other.
        if embedding.error_scope(sqlstate) = 'passing' then
          raise;
        end if;
    end;
  end if;

  return query
  select
    d.attname, d.is_text,
    coalesce((1 - d.null_frac) * greatest(d.reltuples, 0), (counted -> d.attname::text ->> 0)::float)::float,
    coalesce(
      case when d.n_distinct < 0 then -d.n_distinct * greatest(d.reltuples, 0) else d.n_distinct end,
      (counted -> d.attname::text ->> 1)::float)::float
  from embedding.text_columns(c) d
  order by d.attnum;
end;
$$;

-- A table that was dropped is not tracked any more, wherever the tracked ones are listed.

create or replace function embedding.get_collection(collection text)
returns embedding.collections
language plpgsql
stable
set search_path = ''
as $$
declare
  found_collection embedding.collections;
begin
  select c.* into found_collection
  from embedding.collections c
  join pg_catalog.pg_class r on r.oid = c.source -- the table may have been dropped
  where c.name = get_collection.collection;
  if not found then
    raise exception 'collection "%" is not tracked', coalesce(collection, '<null>')
      using errcode = 'P0002',
            hint = format('Tracked are: %s. Track a table with track_embeddings(''table_name'').',
              coalesce((
                select string_agg(c.name, ', ' order by c.name)
                from embedding.collections c join pg_catalog.pg_class r on r.oid = c.source
              ), 'none'));
  end if;
  return found_collection;
end;
$$;

create or replace function public.list_embedding_collections()
returns table (collection text, key_column text, model text)
language sql
stable
security invoker
set search_path = ''
as $$
  select c.name, c.key_column::text, c.model
  from embedding.collections c
  join pg_catalog.pg_class r on r.oid = c.source
  order by c.name
$$;

do $$
declare
  f text;
begin
  foreach f in array array[
    'embedding.error_scope(text)',
    'embedding.error_reason(text, text, jsonb)',
    'embedding.try_document_text(anyelement)',
    'embedding.document_reader(boolean)',
    'embedding.collection_error(embedding.collections)',
    'embedding.collection_remedy(embedding.collections)',
    'embedding.concerns_rows(embedding.collections, text, text)',
    'public.broken_embedding_collections()',
    'embedding.unkept_reason()',
    'embedding.lease_rows(embedding.collections, integer, interval, timestamptz)',
    'embedding.park_unreadable(embedding.collections, integer, timestamptz)',
    'embedding.lease_named_rows(embedding.collections, text[], interval, boolean)',
    'embedding.refuse_rows(embedding.collections, text[], integer[], text[])',
    'embedding.store_singly(embedding.collections, text, text[], bytea[], extensions.vector[])',
    'embedding.store_batch(embedding.collections, text, text[], bytea[], extensions.vector[])',
    'embedding.queue_pending(embedding.collections)',
    'embedding.count_vectors(embedding.collections, boolean)',
    'embedding.count_known_vectors(embedding.collections)',
    'embedding.compare_rows(embedding.collections, integer, boolean)',
    'embedding.mismatched_rows(embedding.collections, integer)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
