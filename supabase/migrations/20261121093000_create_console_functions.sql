-- What the console shows: runs and what they cost, parked rows that are to be tried again one by one, and a
-- bounded sample of vectors to draw a map of. All of it can be fetched over HTTP by whoever has the key.

-- A run that was queued first began later than it was recorded; its rate counts from then.
alter table embedding.runs add column begun_at timestamptz;
alter table embedding.runs add column calls bigint not null default 0;
comment on column embedding.runs.begun_at is 'When work began; null while the run is queued, and for runs older than this column.';
comment on column embedding.runs.calls is 'Requests made to the provider, retries included.';

-- Runs of all collections by day, latest first.
create index runs_by_start on embedding.runs (started_at desc);

create or replace function public.record_embedding_run(
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
    id, collection_id, model, status, processed, embedded, failed, stale, reused, truncated, tokens, cost_usd, calls, error,
    begun_at, finished_at
  )
  values (
    recorded,
    case when record_embedding_run.collection is not null then (embedding.get_collection(record_embedding_run.collection)).id end,
    record_embedding_run.model, record_embedding_run.status,
    coalesce((report ->> 'processed')::bigint, 0), coalesce((report ->> 'embedded')::bigint, 0),
    coalesce((report ->> 'failed')::bigint, 0), coalesce((report ->> 'stale')::bigint, 0),
    coalesce((report ->> 'reused')::bigint, 0), coalesce((report ->> 'truncated')::bigint, 0),
    coalesce((report ->> 'tokens')::bigint, 0), coalesce((report ->> 'cost_usd')::numeric, 0),
    coalesce((report ->> 'calls')::bigint, 0),
    report ->> 'error',
    case when record_embedding_run.status <> 'queued' then now() end,
    case when record_embedding_run.status not in ('queued', 'running') then now() end
  )
  on conflict on constraint runs_pkey do update
  set status = excluded.status,
      collection_id = coalesce(excluded.collection_id, r.collection_id),
      model = coalesce(excluded.model, r.model),
      processed = excluded.processed, embedded = excluded.embedded, failed = excluded.failed, stale = excluded.stale,
      reused = excluded.reused, truncated = excluded.truncated, tokens = excluded.tokens, cost_usd = excluded.cost_usd,
      -- A task reports once more on what its backfill has reported, without the requests that were made.
      calls = greatest(r.calls, excluded.calls),
      error = excluded.error, reported_at = now(),
      begun_at = coalesce(r.begun_at, excluded.begun_at), finished_at = excluded.finished_at;
  return recorded;
end;
$$;

create function public.list_embedding_runs(of_collection text default null, max_rows integer default 50, silent_seconds integer default 120)
returns table (
  run_id uuid,
  kind text,
  collection text,
  model text,
  provider text,
  status text,
  processed bigint,
  embedded bigint,
  failed bigint,
  stale bigint,
  reused bigint,
  calls bigint,
  tokens bigint,
  cost_usd numeric,
  error text,
  started_at timestamptz,
  ended_at timestamptz,
  seconds double precision
)
language sql
stable
security invoker
set search_path = ''
as $$
  select
    r.id, r.kind, c.name, r.model, m.provider, s.status,
    r.processed, r.embedded, r.failed, r.stale, r.reused, r.calls, r.tokens, r.cost_usd, r.error,
    s.started_at,
    -- A run that crashed was last seen when it last reported.
    case when s.status = 'crashed' then r.reported_at else r.finished_at end,
    extract(epoch from case when s.status = 'crashed' then r.reported_at else coalesce(r.finished_at, clock_timestamp()) end - s.started_at)::float
  from embedding.runs r
  left join embedding.collections c on c.id = r.collection_id
  left join embedding.models m on m.name = r.model
  cross join lateral (
    select
      coalesce(r.begun_at, r.started_at) as started_at,
      case when r.status in ('queued', 'running') and r.reported_at < clock_timestamp() - make_interval(secs => silent_seconds)
        then 'crashed' else r.status end as status
  ) s
  where of_collection is null
     or r.collection_id = (embedding.get_collection(of_collection)).id
  order by r.started_at desc, r.id
  limit coalesce(max_rows, 50)
$$;
comment on function public.list_embedding_runs(text, integer, integer) is
  'Runs, latest first, of_collection or of all. collection is null for a run over all of them, whose parts are runs of their own; kind is generation for a run that wrote synonyms. crashed: as get_embedding_run has it.';

create function public.running_embedding_runs(silent_seconds integer default 30)
returns table (collection text, run_id uuid, started_at timestamptz, done bigint, rows_per_second double precision)
language sql
stable
security invoker
set search_path = ''
as $$
  select
    c.name,
    -- The latest one stands for all that work side by side: their rates add up.
    (array_agg(r.id order by r.started_at desc))[1],
    min(coalesce(r.begun_at, r.started_at)),
    sum(r.embedded + r.failed + r.stale)::bigint,
    sum(w.done / nullif(w.seconds, 0))::float
  from embedding.runs r
  join embedding.collections c on c.id = r.collection_id
  cross join lateral (
    select
      r.embedded + r.failed + r.stale as done,
      extract(epoch from r.reported_at - coalesce(r.begun_at, r.started_at)) as seconds
  ) w
  where r.kind = 'embedding' and r.status = 'running'
    and r.reported_at > clock_timestamp() - make_interval(secs => silent_seconds)
  group by c.name
$$;
comment on function public.running_embedding_runs(integer) is
  'The collections that a run is at work on, as its reports tell: rows done, and the rate of it up to its latest report; null before the first.';

create function public.embedding_costs(days integer default 30)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  -- One value: Supabase returns at most 1,000 rows of a call.
  select jsonb_build_object('entries', coalesce(jsonb_agg(to_jsonb(d) order by d.day desc, d.model), '[]'))
  from (
    select
      (r.started_at at time zone 'UTC')::date as day, r.model, min(m.provider) as provider,
      count(*) as runs, sum(r.embedded) as embedded, sum(r.tokens) as tokens, sum(r.cost_usd) as cost_usd
    from embedding.runs r
    left join embedding.models m on m.name = r.model
    where r.started_at >= ((clock_timestamp() at time zone 'UTC')::date - embedding_costs.days + 1)::timestamp at time zone 'UTC'
      and r.model is not null
      -- A run over all collections counts what its parts have counted.
      and (r.collection_id is not null or r.kind <> 'embedding')
    group by 1, 2
  ) d
$$;
comment on function public.embedding_costs(integer) is
  '{entries}: runs, rows, tokens and cost by day (UTC) and model, of the last days, today included; latest first.';

create function public.retry_failed_rows(collection text, row_ids text[])
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
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (row_ids)
    order by q.row_id
    for update
  )
  update embedding.queue q
  set failed_at = null, leased_at = null, attempts = 0, available_at = clock_timestamp()
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.failed_at is not null;
  get diagnostics requeued = row_count;
  return requeued;
end;
$$;
comment on function public.retry_failed_rows(text, text[]) is
  'Queue these parked rows again, with all their attempts; others of the list are left alone. Returns how many.';

create function embedding.text_columns(c embedding.collections)
returns table (attname name, attnum smallint, is_text boolean, reltuples real, null_frac real, n_distinct real)
language sql
stable
security invoker
set search_path = ''
as $$
  select a.attname, a.attnum, t.typcategory = 'S', r.reltuples, st.null_frac, st.n_distinct
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  join pg_catalog.pg_class r on r.oid = a.attrelid
  join pg_catalog.pg_namespace n on n.oid = r.relnamespace
  left join pg_catalog.pg_stats st
    on st.schemaname = n.nspname and st.tablename = r.relname and st.attname = a.attname and not st.inherited
  where a.attrelid = c.source and a.attnum > 0 and not a.attisdropped
    and (t.typcategory in ('S', 'B') or t.typtype = 'e')
    and a.attname not in (c.key_column, 'embedding_model')
$$;
comment on function embedding.text_columns(embedding.collections) is
  'Columns of text, of an enum or of truth values, with what the planner knows of them.';

create function embedding.describing_columns(c embedding.collections)
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
    execute format('select to_jsonb(d) from (select %s from (select * from %s limit 1000) s) d', uncounted, c.source) into counted;
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
comment on function embedding.describing_columns(embedding.collections) is
  'The columns of a collection that say something about a row in a word or two, in their order, and about how many values each has.';

create function embedding.collection_columns(c embedding.collections, out label_column text, out category_columns text[])
language sql
stable
security invoker
set search_path = ''
as $$
  select
    (array_agg(d.column_name::text order by array_position(array['title', 'name'], d.column_name::text), d.place)
      filter (where d.is_text and not d.is_category))[1],
    coalesce(array_agg(d.column_name::text order by d.place) filter (where d.is_category), '{}')
  from (
    select
      w.column_name, w.place, w.is_text,
      -- More colours than sixty cannot be told apart. A text of its own for each row is no category, however few the rows.
      w.column_name not in ('title', 'name') and w.distinct_values between 2 and least(60, w.values_held / 2) as is_category
    from embedding.describing_columns(c) with ordinality as w(column_name, is_text, values_held, distinct_values, place)
  ) d
$$;
comment on function embedding.collection_columns(embedding.collections) is
  'The column that names a row (title, name, or the first text that is not a category; null: its text has to do) and those of few values, to colour by.';

create function public.list_collection_columns()
returns table (collection text, label_column text, category_columns text[])
language sql
stable
security invoker
set search_path = ''
as $$
  select k.name, d.label_column, d.category_columns
  from embedding.collections k
  join pg_catalog.pg_class r on r.oid = k.source -- the table may have been dropped
  cross join lateral embedding.collection_columns(k) d
  order by k.name
$$;
comment on function public.list_collection_columns() is 'Of each collection: the column that names a row, and those to colour by.';

create function embedding.sample_model(c embedding.collections, sample_size integer)
returns text
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  found_model text;
begin
  execute format($sql$
    select h.embedding_model
    from (select s.embedding_model from %s s where s.embedding is not null order by s.embedding_hash limit $1) h
    group by 1
    order by count(*) desc, h.embedding_model = $2 desc nulls last, 1
    limit 1
  $sql$, c.source)
  into found_model
  using sample_size, c.model;
  return found_model;
end;
$$;
comment on function embedding.sample_model(embedding.collections, integer) is
  'The model that made most of the vectors, as a sample tells; null where there are none.';

create function public.embedding_sample_version(collection text, sample_size integer default 2000)
returns table (model text, version text)
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  model := embedding.sample_model(c, least(sample_size, 2000));
  -- xmin: every update of a row makes it another version, be it of its text, its vector or its category.
  execute format($sql$
    select md5(coalesce(string_agg(h.key || ':' || h.version, ',' order by h.key), ''))
    from (
      select s.%1$I::text as key, s.xmin::text as version
      from %2$s s
      where s.embedding is not null and s.embedding_model = $1
      order by s.embedding_hash, s.%1$I
      limit $2
    ) h
  $sql$, c.key_column, c.source)
  into version
  using model, least(sample_size, 2000);
  return next;
end;
$$;
comment on function public.embedding_sample_version(text, integer) is
  'Names the present state of what sample_embeddings would return, at a fraction of its cost, and the model of it.';

create function public.sample_embeddings(
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
  execute format($sql$
    with head as materialized (
      select
        s.%1$I::text as id,
        left(coalesce(nullif(btrim(%3$s), ''), embedding.document_text(s)), 120) as label,
        left(%4$s, 120) as category,
        extensions.l2_normalize(s.embedding)::extensions.halfvec as vector,
        row_number() over (order by s.embedding_hash, s.%1$I) as place
      from %2$s s
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
  $sql$,
    c.key_column,
    c.source,
    case when label_column is null then 'null' else format('s.%I::text', label_column) end,
    case when category_column is null then 'null' else format('s.%I::text', category_column) end)
  into sampled
  using model, sample_size;
  return sampled;
end;
$$;
comment on function public.sample_embeddings(text, text, integer, text) is
  'Up to 2,000 rows with a vector of this model, the same ones for the same rows: {total, ids, labels, categories, vectors}. vectors is base64 of big-endian half floats, unit length, row after row.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'public.record_embedding_run(uuid, text, text, text, jsonb)',
    'public.list_embedding_runs(text, integer, integer)',
    'public.running_embedding_runs(integer)',
    'public.embedding_costs(integer)',
    'public.retry_failed_rows(text, text[])',
    'embedding.text_columns(embedding.collections)',
    'embedding.describing_columns(embedding.collections)',
    'embedding.collection_columns(embedding.collections)',
    'public.list_collection_columns()',
    'embedding.sample_model(embedding.collections, integer)',
    'public.embedding_sample_version(text, integer)',
    'public.sample_embeddings(text, text, integer, text)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
