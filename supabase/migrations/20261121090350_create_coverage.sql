-- Is it done? Counted from the rows themselves, not from the queue. Also: the vector index of a
-- collection, and the record of runs.

create function public.embedding_coverage()
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

    execute format($sql$
      with held as (
        select s.embedding_model, count(*) as vectors from %s s where s.embedding is not null group by 1
      )
      select
        coalesce(sum(h.vectors) filter (where h.embedding_model = coalesce($1, h.embedding_model)), 0),
        coalesce(sum(h.vectors) filter (where h.embedding_model <> $1), 0)
          + (select count(*) from %1$s s where s.embedding is null and embedding.document_text(s) is not null),
        coalesce(jsonb_object_agg(coalesce(h.embedding_model, ''), h.vectors), '{}')
      from held h
    $sql$, c.source)
    into embedded, pending, models
    using c.model;

    total := embedded + pending;
    failed := least(failed, pending);
    pending := pending - failed;
    return next;
  end loop;
end;
$$;
comment on function public.embedding_coverage() is
  'One row a collection: total = embedded + pending + failed, counted from the table itself; leased rows are among the pending.';

create function public.mismatched_embeddings(collection text, max_rows integer default 100)
returns table (row_id text, reason text)
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  return query execute format($sql$
    select checked.key::text, checked.reason
    from (
      select
        s.%1$I as key,
        case
          when embedding.document_text(s) is null then 'has a vector, but no text to embed'
          when s.embedding_hash is distinct from embedding.text_hash(embedding.document_text(s)) then 'the vector is of another text'
          when m.name is null then 'the vector names no registered model'
          when extensions.vector_dims(s.embedding) <> m.dimensions then 'the vector has not the width of its model'
        end as reason
      from %2$s s
      left join embedding.models m on m.name = s.embedding_model
      where s.embedding is not null
    ) checked
    where checked.reason is not null
    limit $1
  $sql$, c.key_column, c.source)
  using max_rows;
end;
$$;
comment on function public.mismatched_embeddings(text, integer) is
  'Rows whose vector does not belong to their present text or model, with the reason. max_rows null: all of them.';

create function public.verify_embeddings(collection text)
returns bigint
language sql
stable
security invoker
set search_path = ''
as $$
  select count(*) from public.mismatched_embeddings(verify_embeddings.collection, null)
$$;
comment on function public.verify_embeddings(text) is
  'How many rows have a vector that does not belong to their present text or model. Compares every row; must be 0.';

create function public.repair_embeddings(collection text)
returns bigint
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  repaired bigint;
begin
  execute format($sql$
    update %2$s s set embedding = null
    from public.mismatched_embeddings($1, null) wrong
    where s.%1$I = wrong.row_id::%3$s
  $sql$, c.key_column, c.source, c.key_type)
  using c.name;
  get diagnostics repaired = row_count;
  return repaired;
end;
$$;
comment on function public.repair_embeddings(text) is
  'Drop the vectors that verify_embeddings counts; their rows are pending again. Returns how many.';

create function public.estimate_embeddings(collection text, model text, sample_size integer default 1000)
returns table (rows bigint, texts bigint, characters bigint, sample text[])
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  return query execute format($sql$
    with pending as (
      select embedding.document_text(s) as document
      from %2$s s
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
  $sql$, c.key_column, c.source)
  using c.id, model, sample_size;
end;
$$;
comment on function public.estimate_embeddings(text, text, integer) is
  'What a backfill with this model would have to embed: rows without a vector of it (parked ones left out), the distinct texts among them that need a provider, their characters, and a sample to count tokens on.';

create function embedding.vector_index_name(c embedding.collections, model text)
returns name
language sql
stable
set search_path = ''
as $$
  select (left(r.relname, 32) || '_vector_' || left(md5(vector_index_name.model), 12) || '_idx')::name
  from pg_catalog.pg_class r where r.oid = c.source
$$;
comment on function embedding.vector_index_name(embedding.collections, text) is 'The name of the index over one model''s vectors.';

create function public.create_embedding_index(
  collection text,
  model text default null,
  m integer default 16,
  ef_construction integer default 128
)
returns text
language plpgsql
-- Creating an index takes the table's owner.
security definer
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  indexed embedding.models;
  index_name name;
begin
  if coalesce(create_embedding_index.model, c.model) is null then
    raise exception 'collection "%" has no model yet', c.name
      using errcode = '55000', hint = 'Run a backfill first: the index is built over the vectors of one model.';
  end if;
  indexed := embedding.get_model(coalesce(create_embedding_index.model, c.model));
  index_name := embedding.vector_index_name(c, indexed.name);
  execute format(
    'create index if not exists %I on %s using hnsw ((embedding::extensions.halfvec(%s)) extensions.halfvec_cosine_ops) with (m = %s, ef_construction = %s) where embedding_model = %L',
    index_name, c.source, indexed.dimensions, create_embedding_index.m, create_embedding_index.ef_construction, indexed.name
  );
  -- A bulk load is behind us: keyword search ranks by these statistics.
  execute format('analyze %s', c.source);
  return index_name;
end;
$$;
comment on function public.create_embedding_index(text, text, integer, integer) is
  'Build the HNSW index over one model''s vectors (half precision), after the bulk load. Returns its name. On a large table call it through DATABASE_URL: the API''s statement timeout would end it.';

create function public.needs_embedding_index(collection text, min_rows integer default 10000)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  enough boolean;
begin
  if c.model is null or exists (
    select from pg_catalog.pg_index i
    join pg_catalog.pg_class r on r.oid = i.indexrelid
    where i.indrelid = c.source and i.indisvalid and r.relname = embedding.vector_index_name(c, c.model)
  ) then
    return false;
  end if;
  -- Counts no further than it has to.
  execute format('select count(*) >= $1 from (select from %s s where s.embedding_model = $2 limit $1) counted', c.source)
  into enough
  using min_rows, c.model;
  return enough;
end;
$$;
comment on function public.needs_embedding_index(text, integer) is
  'Whether the collection has min_rows vectors of its model and no index over them. Below that an exact scan is as good.';

create function public.drop_embedding_index(collection text, model text)
returns boolean
language plpgsql
security definer
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  schema_name name := (select n.nspname from pg_catalog.pg_class r join pg_catalog.pg_namespace n on n.oid = r.relnamespace where r.oid = c.source);
  index_name name := embedding.vector_index_name(c, drop_embedding_index.model);
begin
  if to_regclass(format('%I.%I', schema_name, index_name)) is null then
    return false;
  end if;
  execute format('drop index %I.%I', schema_name, index_name);
  return true;
end;
$$;
comment on function public.drop_embedding_index(text, text) is 'Drop the index over one model''s vectors. False where there is none.';

create function public.record_embedding_run(
  run_id uuid default null,
  collection text default null,
  model text default null,
  status text default 'running',
  report jsonb default '{}'
)
returns uuid
language plpgsql
security invoker
set search_path = ''
as $$
declare
  recorded uuid := coalesce(run_id, gen_random_uuid());
begin
  insert into embedding.runs as r (
    id, collection_id, model, status, processed, embedded, failed, stale, reused, truncated, tokens, cost_usd, error, finished_at
  )
  values (
    recorded,
    case when record_embedding_run.collection is not null then (embedding.get_collection(record_embedding_run.collection)).id end,
    record_embedding_run.model, record_embedding_run.status,
    coalesce((report ->> 'processed')::bigint, 0), coalesce((report ->> 'embedded')::bigint, 0),
    coalesce((report ->> 'failed')::bigint, 0), coalesce((report ->> 'stale')::bigint, 0),
    coalesce((report ->> 'reused')::bigint, 0), coalesce((report ->> 'truncated')::bigint, 0),
    coalesce((report ->> 'tokens')::bigint, 0), coalesce((report ->> 'cost_usd')::numeric, 0),
    report ->> 'error',
    case when record_embedding_run.status not in ('queued', 'running') then now() end
  )
  on conflict on constraint runs_pkey do update
  set status = excluded.status,
      collection_id = coalesce(excluded.collection_id, r.collection_id),
      model = coalesce(excluded.model, r.model),
      processed = excluded.processed, embedded = excluded.embedded, failed = excluded.failed, stale = excluded.stale,
      reused = excluded.reused, truncated = excluded.truncated, tokens = excluded.tokens, cost_usd = excluded.cost_usd,
      error = excluded.error, reported_at = now(), finished_at = excluded.finished_at;
  return recorded;
end;
$$;
comment on function public.record_embedding_run(uuid, text, text, text, jsonb) is
  'Begin a run (run_id null) or report on it; report holds the counts. Returns the run''s id.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'public.embedding_coverage()',
    'public.mismatched_embeddings(text, integer)',
    'public.verify_embeddings(text)',
    'public.repair_embeddings(text)',
    'public.estimate_embeddings(text, text, integer)',
    'embedding.vector_index_name(embedding.collections, text)',
    'public.create_embedding_index(text, text, integer, integer)',
    'public.needs_embedding_index(text, integer)',
    'public.drop_embedding_index(text, text)',
    'public.record_embedding_run(uuid, text, text, text, jsonb)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
