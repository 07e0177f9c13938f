-- Values that no well-meaning caller sends are refused by name, before anything is stored: numbers that are none, leases
-- beyond all bounds, rows without what a row must have. SQLSTATE class 22 throughout, which both adapters pass on as 422;
-- a constraint's own error (class 23) names neither the argument nor the fix.
-- search_hits besides trusts a short query's words a little more where a row holds all of them, and less where it does not:
-- measured on judged sets, tags and one-word lookups gained and none lost more than .004 (README, Search).

-- Loads pgvector, whose settings (hnsw.*) are given to functions below.
select '[0]'::extensions.vector is not null;

create function embedding.check_lease(lease_seconds integer)
returns interval
language plpgsql
immutable
set search_path = ''
as $$
begin
  if lease_seconds between 1 and 86400 then
    return make_interval(secs => lease_seconds);
  end if;
  raise exception 'lease_seconds must be between 1 and 86400, not %', coalesce(lease_seconds::text, '<null>') using errcode = '22023';
end;
$$;
comment on function embedding.check_lease(integer) is 'How long a lease runs; refused is one that ended before it began, and one of more than a day.';

create function embedding.check_weight(argument text, weight double precision)
returns double precision
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- Infinity times nothing is not a number, and neither is any sum with it: rows would come in no order at all.
  if abs(weight) < 'infinity' then
    return weight;
  end if;
  raise exception '% must be a finite number, not %', argument, coalesce(weight::text, '<null>') using errcode = '22023';
end;
$$;
comment on function embedding.check_weight(text, double precision) is 'This weight; refuses NaN and the infinities, by the argument''s name.';

create function embedding.check_synonym_values(tag_type text, synonyms jsonb, confidence double precision, fewest integer, most integer)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if (check_synonym_values.tag_type in ('genre', 'mood')) is not true then
    raise exception 'tag_type must be genre or mood, not "%"', coalesce(check_synonym_values.tag_type, '<null>') using errcode = '22023';
  end if;
  if not embedding.are_synonyms(check_synonym_values.synonyms, fewest, most) then
    raise exception 'synonyms must hold search_terms (% to % distinct, not empty), and may hold related_tags, usage_context and translations {fr, en}',
      fewest, most using errcode = '22023';
  end if;
  if (check_synonym_values.confidence between 0 and 1) is not true then
    raise exception 'confidence must be between 0 and 1, not %', coalesce(check_synonym_values.confidence::text, '<null>') using errcode = '22023';
  end if;
end;
$$;
comment on function embedding.check_synonym_values(text, jsonb, double precision, integer, integer) is
  'Refuses synonyms that the table would refuse, by the argument''s name.';

create function embedding.check_run()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  wrong record;
begin
  if (new.status in ('queued', 'running', 'completed', 'failed', 'interrupted')) is not true then
    raise exception 'status must be queued, running, completed, failed or interrupted, not "%"', coalesce(new.status, '<null>')
      using errcode = '22023';
  end if;
  if not new.cost_usd < 'NaN' then
    raise exception 'cost_usd must be a number, not %', new.cost_usd using errcode = '22023';
  end if;
  -- Every count there is, those of later columns too.
  select f.key as name, f.value into wrong
  from jsonb_each(to_jsonb(new)) f where case when jsonb_typeof(f.value) = 'number' then f.value::numeric < 0 end
  order by 1 limit 1;
  if found then
    raise exception '% must not be below 0, but is %', wrong.name, wrong.value using errcode = '22023';
  end if;
  if char_length(new.model) > 255 then
    raise exception 'model must hold at most 255 characters, not %', char_length(new.model) using errcode = '22023';
  end if;
  new.error := left(new.error, 2000);
  return new;
end;
$$;
comment on function embedding.check_run() is 'A run''s report holds counts: no number below 0, and none that is not a number.';
create trigger check_run before insert or update on embedding.runs for each row execute function embedding.check_run();

revoke all on function embedding.check_lease(integer), embedding.check_weight(text, double precision),
  embedding.check_synonym_values(text, jsonb, double precision, integer, integer), embedding.check_run() from public;
grant execute on function embedding.check_lease(integer),
  embedding.check_synonym_values(text, jsonb, double precision, integer, integer) to service_role;
-- Searching runs as the caller.
grant execute on function embedding.check_weight(text, double precision) to anon, authenticated, service_role;

create or replace function public.register_embedding_model(
  name text,
  provider text,
  dimensions integer,
  document_prefix text default '',
  query_prefix text default '',
  max_tokens integer default null
)
returns embedding.models
language plpgsql
security invoker
set search_path = ''
as $$
declare
  stored embedding.models;
begin
  -- The name is part of indexes, whose entries are bounded.
  if (char_length(register_embedding_model.name) between 1 and 255) is not true then
    raise exception 'name must hold between 1 and 255 characters, not %', coalesce(char_length(register_embedding_model.name), 0) using errcode = '22023';
  end if;
  if coalesce(register_embedding_model.provider, '') = '' then
    raise exception 'provider must not be empty' using errcode = '22023';
  end if;
  if (register_embedding_model.dimensions between 1 and 4000) is not true then
    raise exception 'dimensions must be between 1 and 4000, not %', coalesce(register_embedding_model.dimensions::text, '<null>') using errcode = '22023';
  end if;
  if register_embedding_model.max_tokens < 1 then
    raise exception 'max_tokens must be 1 or more, not %', register_embedding_model.max_tokens using errcode = '22023';
  end if;

  insert into embedding.models as m (name, provider, dimensions, document_prefix, query_prefix, max_tokens)
  values (
    register_embedding_model.name, register_embedding_model.provider, register_embedding_model.dimensions,
    coalesce(register_embedding_model.document_prefix, ''), coalesce(register_embedding_model.query_prefix, ''),
    register_embedding_model.max_tokens
  )
  on conflict on constraint models_pkey do nothing;

  select m.* into strict stored from embedding.models m where m.name = register_embedding_model.name;
  if stored.dimensions <> register_embedding_model.dimensions then
    raise exception 'model "%" is registered with % dimensions, not %', stored.name, stored.dimensions, register_embedding_model.dimensions
      using errcode = '22023',
            hint = 'Vectors of one model have one width. Give the other width a name of its own (EMBEDDING_MODEL).';
  end if;
  return stored;
end;
$$;

create or replace function public.renew_embeddings(collection text, row_ids text[], lease_seconds integer default 300)
returns integer
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  lease interval := embedding.check_lease(coalesce(lease_seconds, 300));
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
  set available_at = clock_timestamp() + lease
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  get diagnostics renewed = row_count;
  return renewed;
end;
$$;

create or replace function public.create_embedding_index(
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
    index_name, c.source, indexed.dimensions, coalesce(create_embedding_index.m, 16), coalesce(create_embedding_index.ef_construction, 128), indexed.name
  );
  -- A bulk load is behind us: keyword search ranks by these statistics.
  execute format('analyze %s', c.source);
  return index_name;
end;
$$;

create or replace function public.claim_synonym_tags(batch_size integer default 1, lease_seconds integer default 900)
returns table (tag_type text, tag_id bigint, tag_name text, description text, attempts integer, related jsonb)
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  lease interval := embedding.check_lease(coalesce(lease_seconds, 900));
begin
  -- Deleted since, or written by somebody meanwhile.
  delete from embedding.synonym_queue q
  where q.failed_at is null
    and (
      not exists (select from embedding.tag_catalogue() t where t.tag_type = q.tag_type and t.tag_id = q.tag_id)
      or (not q.force and exists (
        select from public.mir_synonyms s where s.tag_type = q.tag_type and s.tag_id = q.tag_id and s.renamed_from is null)));

  return query
  with head as (
    select q.tag_type, q.tag_id
    from embedding.synonym_queue q
    where q.failed_at is null and q.available_at <= clock_timestamp()
    order by q.available_at, q.tag_type, q.tag_id
    limit greatest(coalesce(batch_size, 1), 1)
    for update skip locked
  ),
  leased as (
    update embedding.synonym_queue q
    set leased_at = clock_timestamp(), available_at = clock_timestamp() + lease, attempts = q.attempts + 1
    from head h
    where q.tag_type = h.tag_type and q.tag_id = h.tag_id
    returning q.tag_type, q.tag_id, q.attempts
  )
  select l.tag_type, l.tag_id, t.tag_name,
    coalesce((select g.description from public.genre_tags g where l.tag_type = 'genre' and g.id = l.tag_id),
             (select m.description from public.mood_tags m where l.tag_type = 'mood' and m.id = l.tag_id), ''),
    l.attempts,
    -- Its likely relatives: tags that share a word first, then others of the same type, in an order of the tag's own.
    coalesce((
      select jsonb_agg(r.tag_name)
      from (
        select c.tag_name
        from embedding.tag_catalogue() c
        where (c.tag_type, c.tag_id) <> (l.tag_type, l.tag_id)
        order by not (string_to_array(embedding.tag_key(c.tag_name), ' ') && string_to_array(embedding.tag_key(t.tag_name), ' ')),
          c.tag_type <> l.tag_type, md5(c.tag_name || t.tag_name)
        limit 40
      ) r), '[]')
  from leased l
  join embedding.tag_catalogue() t on t.tag_type = l.tag_type and t.tag_id = l.tag_id;
end;
$$;

create or replace function public.fail_synonym_tag(
  tag_type text,
  tag_id bigint,
  error text,
  final boolean default false,
  retry_after_seconds integer default 60,
  max_attempts integer default 3
)
returns boolean
language sql
security invoker
set search_path = ''
as $$
  update embedding.synonym_queue q
  set leased_at = null,
      -- No attempt left in the books: the tag was asked for again since it was claimed, perhaps under another name. What failed
      -- was the old request, and the new one may be had at once.
      error = case when q.attempts > 0 then left(coalesce(fail_synonym_tag.error, 'unknown'), 2000) end,
      failed_at = case
        when q.attempts > 0 and (fail_synonym_tag.final or q.attempts >= fail_synonym_tag.max_attempts) then clock_timestamp()
      end,
      available_at = clock_timestamp() + case
        when q.attempts > 0 then least(
          make_interval(secs => greatest(coalesce(fail_synonym_tag.retry_after_seconds, 60), 0) * 2.0 ^ (least(q.attempts, 10) - 1)),
          interval '1 day')
        else interval '0'
      end
  where q.tag_type = fail_synonym_tag.tag_type and q.tag_id = fail_synonym_tag.tag_id and q.leased_at is not null
  returning q.failed_at is not null
$$;

create or replace function public.create_synonyms(
  tag_type text,
  synonyms jsonb,
  tag_id bigint default null,
  tag_name text default null,
  confidence float default 1.0
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
#variable_conflict use_column
declare
  tag bigint := coalesce(create_synonyms.tag_id, embedding.find_tag(create_synonyms.tag_type, create_synonyms.tag_name));
  stored public.mir_synonyms;
  present public.mir_synonyms;
begin
  perform embedding.check_synonym_values(create_synonyms.tag_type, create_synonyms.synonyms, coalesce(create_synonyms.confidence, 1.0), 1, 50);
  if tag is null then
    raise exception 'there is no % tag "%"', create_synonyms.tag_type, coalesce(create_synonyms.tag_name, '<null>') using errcode = 'P0002';
  end if;
  insert into public.mir_synonyms as s (tag_type, tag_id, synonyms, source, confidence)
  values (create_synonyms.tag_type, tag, create_synonyms.synonyms, 'manual', coalesce(create_synonyms.confidence, 1.0))
  -- Deactivated, or made for a former name: the row is there, and nobody reads it. Its owner is told nothing new.
  on conflict (tag_type, tag_id) do update
  set synonyms = excluded.synonyms, source = 'manual', model = null, confidence = excluded.confidence, is_active = true,
      previous = case when s.source = 'manual' and s.synonyms <> excluded.synonyms then s.synonyms else s.previous end
  where not s.is_active
  returning s.* into stored;
  if stored.id is null then
    select s.* into present from public.mir_synonyms s where s.tag_type = create_synonyms.tag_type and s.tag_id = tag;
    raise exception 'the % tag "%" has synonyms already, with id %', present.tag_type, present.tag_name, present.id
      using errcode = '23505', hint = format('Change them: PUT /api/synonyms/%s.', present.id);
  end if;
  return embedding.synonyms_row(stored);
end;
$$;

create or replace function public.update_synonyms(
  synonyms_id bigint,
  synonyms jsonb default null,
  confidence float default null,
  is_active boolean default null,
  expected_updated_at timestamptz default null
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
#variable_conflict use_column
declare
  present public.mir_synonyms;
  stored public.mir_synonyms;
begin
  select s.* into present from public.mir_synonyms s where s.id = synonyms_id for no key update;
  if not found then
    raise exception 'there are no synonyms with id %', synonyms_id using errcode = 'P0002';
  end if;
  if expected_updated_at is not null and present.updated_at <> expected_updated_at then
    raise exception 'synonyms % were changed at %', synonyms_id, to_char(present.updated_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
      using errcode = '23505', hint = 'Read them again, and send the updated_at that they have now.';
  end if;
  perform embedding.check_synonym_values(
    present.tag_type, coalesce(update_synonyms.synonyms, present.synonyms), coalesce(update_synonyms.confidence, present.confidence), 1, 50);
  update public.mir_synonyms s
  set synonyms = coalesce(update_synonyms.synonyms, s.synonyms),
      source = case when update_synonyms.synonyms is null then s.source else 'manual' end,
      model = case when update_synonyms.synonyms is null then s.model end,
      confidence = coalesce(update_synonyms.confidence, s.confidence),
      -- Written for the tag's present name: they fit again.
      is_active = coalesce(update_synonyms.is_active, s.is_active or (s.renamed_from is not null and update_synonyms.synonyms is not null))
  where s.id = synonyms_id
  returning s.* into stored;
  return embedding.synonyms_row(stored);
end;
$$;

create or replace function public.store_generated_synonyms(
  tag_type text,
  tag_id bigint,
  tag_name text,
  synonyms jsonb,
  model text,
  confidence float default 0.8
)
returns table (outcome text, id bigint)
language plpgsql
security invoker
set search_path = ''
as $$
#variable_conflict use_column
declare
  present text;
  forced boolean;
  stored bigint;
begin
  perform embedding.check_synonym_values(
    store_generated_synonyms.tag_type, store_generated_synonyms.synonyms, store_generated_synonyms.confidence, 5, 10);
  -- The tag first, as a rename and a deletion do: its name cannot change from here on.
  if store_generated_synonyms.tag_type = 'genre' then
    select t.name into present from public.genre_tags t where t.id = store_generated_synonyms.tag_id for share;
  else
    select t.name into present from public.mood_tags t where t.id = store_generated_synonyms.tag_id for share;
  end if;
  if present is null or embedding.tag_key(present) <> embedding.tag_key(store_generated_synonyms.tag_name) then
    -- Deleted or renamed since: the answer is about another word.
    update embedding.synonym_queue q
    set leased_at = null, attempts = 0, available_at = clock_timestamp()
    where q.tag_type = store_generated_synonyms.tag_type and q.tag_id = store_generated_synonyms.tag_id;
    return query select 'stale', null::bigint;
    return;
  end if;
  select q.force into forced from embedding.synonym_queue q
  where q.tag_type = store_generated_synonyms.tag_type and q.tag_id = store_generated_synonyms.tag_id;

  insert into public.mir_synonyms as s (tag_type, tag_id, synonyms, source, model, confidence)
  values (
    store_generated_synonyms.tag_type, store_generated_synonyms.tag_id, store_generated_synonyms.synonyms,
    'generated', store_generated_synonyms.model, store_generated_synonyms.confidence)
  on conflict (tag_type, tag_id) do update
  set synonyms = excluded.synonyms, source = 'generated', model = excluded.model, confidence = excluded.confidence, is_active = true,
      previous = case when s.source <> 'generated' then s.synonyms else s.previous end
  -- Somebody was quicker, or has switched them off.
  where forced or s.renamed_from is not null
  returning s.id into stored;

  delete from embedding.synonym_queue q
  where q.tag_type = store_generated_synonyms.tag_type and q.tag_id = store_generated_synonyms.tag_id;
  return query select case when stored is null then 'kept' else 'stored' end, stored;
end;
$$;

create or replace function public.store_code_chunks(model text, rows jsonb)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.check_model(embedding.get_collection('code_chunks'), store_code_chunks.model);
  stored integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {id, path, content, language, metadata, embedding}' using errcode = '22023';
  end if;
  if exists (select from jsonb_to_recordset(rows) as r (id text, content text) where coalesce(r.id, '') = '' or r.content is null) then
    raise exception 'each of the rows must hold an id, which is not empty, and its content' using errcode = '22023';
  end if;
  insert into public.code_chunks as k (id, path, content, language, metadata, embedding, embedding_model, embedding_hash)
  select distinct on (r.id) r.id, coalesce(r.path, ''), r.content, r.language, coalesce(r.metadata, '{}'), r.embedding::extensions.vector, c.model,
    embedding.text_hash(r.content)
  from rows from (jsonb_to_recordset(rows) as (id text, path text, content text, language text, metadata jsonb, embedding text))
    with ordinality r (id, path, content, language, metadata, embedding, place)
  order by r.id, r.place desc
  on conflict (id) do update
  set path = excluded.path, content = excluded.content, language = coalesce(excluded.language, k.language), metadata = excluded.metadata,
      embedding = excluded.embedding, embedding_model = excluded.embedding_model, embedding_hash = excluded.embedding_hash
  -- What is as it was is not written: its vector stays in the index.
  where (k.path, k.content, k.metadata, k.embedding_model, k.embedding_hash)
      is distinct from (excluded.path, excluded.content, excluded.metadata, excluded.embedding_model, excluded.embedding_hash)
    or excluded.language is distinct from coalesce(excluded.language, k.language);
  get diagnostics stored = row_count;
  return stored;
end;
$$;

create or replace function public.upsert_datasets(rows jsonb)
returns table (inserted integer, updated integer, unchanged integer)
language plpgsql
security invoker
set search_path = ''
as $$
declare
  given integer;
  wrong text;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {external_id, title, ...}' using errcode = '22023';
  end if;
  select case
      when r.external_id = '' then 'an external_id must not be empty'
      when coalesce(btrim(r.title), '') = '' then 'a title must not be empty'
      when r.enrichment_status not in ('pending', 'in_progress', 'enriched', 'failed') then
        'enrichment_status must be pending, in_progress, enriched or failed'
      when not isfinite(r.published_at) then 'published_at must be a point in time'
      when not r.static_score between 0 and 1 then 'static_score must be between 0 and 1'
    end
  into wrong
  from jsonb_to_recordset(rows) as r (
    external_id text, title text, enrichment_status text, published_at timestamptz, static_score double precision)
  order by 1 nulls last limit 1;
  if wrong is not null then
    raise exception 'rows: %', wrong using errcode = '22023';
  end if;
  with incoming as materialized (
    -- Of two rows with one external_id the later counts.
    select distinct on (r.external_id) r.*
    from rows from (jsonb_to_recordset(rows) as (
      external_id text, title text, description text, url text, tags text[], metadata jsonb, enrichment_status text, is_active boolean,
      published_at timestamptz, static_score double precision)) with ordinality r (
      external_id, title, description, url, tags, metadata, enrichment_status, is_active, published_at, static_score, place)
    order by r.external_id, r.place desc
  ),
  written as (
    insert into public.datasets as d (external_id, title, description, url, tags, metadata, enrichment_status, is_active, published_at)
    select i.external_id, i.title, coalesce(i.description, ''), i.url, coalesce(i.tags, '{}'), coalesce(i.metadata, '{}'),
      coalesce(i.enrichment_status, 'pending'), coalesce(i.is_active, true), i.published_at
    from incoming i
    order by i.external_id
    on conflict (external_id) do update
    set title = excluded.title, description = excluded.description, url = excluded.url, tags = excluded.tags, metadata = excluded.metadata,
        enrichment_status = excluded.enrichment_status, is_active = excluded.is_active, published_at = excluded.published_at
    -- A row that is as it was is not written: nothing to index again.
    where (d.title, d.description, d.url, d.tags, d.metadata, d.enrichment_status, d.is_active, d.published_at)
      is distinct from (excluded.title, excluded.description, excluded.url, excluded.tags, excluded.metadata,
        excluded.enrichment_status, excluded.is_active, excluded.published_at)
    returning d.id, d.external_id, d.xmax = 0 as is_new
  ),
  known as (
    select w.id, w.external_id from written w
    union
    select d.id, d.external_id from public.datasets d join incoming i on i.external_id = d.external_id
  ),
  scored as (
    insert into public.dataset_scores as s (dataset_id, static_score)
    select k.id, i.static_score
    from incoming i
    join known k on k.external_id = i.external_id
    where i.static_score is not null
    order by k.id
    on conflict (dataset_id) do update
    set static_score = excluded.static_score, updated_at = now()
    where s.static_score <> excluded.static_score
    returning s.dataset_id
  )
  select count(*) filter (where w.is_new),
    (select count(distinct changed.id) from (
       select u.id from written u where not u.is_new
       union all
       select s.dataset_id from scored s where not exists (select from written u where u.id = s.dataset_id and u.is_new)) changed (id)),
    (select count(*) from incoming)
  into inserted, updated, given
  from written w;
  unchanged := given - inserted - updated;
  return next;
end;
$$;

create or replace function public.set_dataset_scores(rows jsonb)
returns integer
language plpgsql
security invoker
set search_path = ''
as $$
declare
  changed integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {id, static_score}' using errcode = '22023';
  end if;
  if exists (select from jsonb_to_recordset(rows) as r (static_score double precision) where (r.static_score between 0 and 1) is not true) then
    raise exception 'rows: static_score must be between 0 and 1' using errcode = '22023';
  end if;
  insert into public.dataset_scores as s (dataset_id, static_score)
  select distinct on (r.id) r.id, r.static_score
  from jsonb_to_recordset(rows) as r (id uuid, static_score double precision)
  join public.datasets d on d.id = r.id
  order by r.id
  on conflict (dataset_id) do update
  set static_score = excluded.static_score, updated_at = now()
  where s.static_score <> excluded.static_score;
  get diagnostics changed = row_count;
  return changed;
end;
$$;

create or replace function embedding.search_hits(
  source regclass,
  query_text text default null,
  query_embedding extensions.vector default null,
  match_count int default 10,
  filter jsonb default null,
  full_text_weight float8 default 0.3,
  semantic_weight float8 default 0.7,
  embedding_model text default null,
  query_embeddings jsonb default null,
  fusion text default 'weighted'
)
returns table (
  row_id text,
  score float8,
  full_text_score float8,
  full_text_rank int,
  semantic_score float8,
  semantic_rank int,
  bm25 float8,
  full_text_trust float8,
  cosine float8
)
language plpgsql
stable
security invoker
rows 10
set search_path = ''
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 200
set hnsw.max_scan_tuples = 40000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
declare
  row_budget constant int := 600;        -- rows scored by BM25
  wanted constant int := least(greatest(coalesce(match_count, 10), 1), 200);
  depth constant int := greatest(wanted, 100);
  words_weight constant float8 := embedding.check_weight('full_text_weight', coalesce(full_text_weight, 0.3));
  meaning_weight constant float8 := embedding.check_weight('semantic_weight', coalesce(semantic_weight, 0.7));
  method constant text := coalesce(fusion, 'weighted');
  collection record;
  words record;
  condition text;
  gate constant text := format(' and (select count(*) from first) < %s', depth);
  rare int;                              -- how many of the rarest terms fit into the budget as a whole
  rare_rows float8;
  rare_query text;
  pair_query text;
  bm25_sql text := 'null::float8';
  held_sql text := 'null::float8';
  cosine_sql text;
  vectors extensions.vector[];
  k_sql text := 'null::float8';
  first_sql text;
  other_sql text;
  words_sql text;
  meaning_sql text;
begin
  select c.* into collection from embedding.describe_collection(source) c;
  if not found then
    raise exception '% is not tracked', source
      using errcode = '42704', hint = 'Track it first: select track_embeddings(''...'').';
  end if;
  if method not in ('weighted', 'rrf') then
    raise exception 'fusion must be weighted or rrf, not "%"', method using errcode = '22023';
  end if;
  condition := embedding.filter_condition(source, filter);

  -- The words leg: rows that hold one of the rarest terms, then rows that hold two of the others, until the budget is spent;
  -- rows that hold a single common word only where little else was found. Each query is a literal, so that the planner
  -- weighs it by its own rarity.
  select t.* into words from embedding.query_terms(source, query_text, collection.text_config) t where words_weight <> 0;
  if cardinality(words.terms) > 0 then
    select count(*), max(c.so_far) into rare, rare_rows
    from (select sum(c.n) over (order by c.place) as so_far from unnest(words.counts) with ordinality c (n, place)) c
    where c.so_far <= row_budget;
    rare_query := nullif(array_to_string(words.terms[1:rare], ' | '), '');
    pair_query := words.terms[rare + 1] || ' & (' || nullif(array_to_string(words.terms[rare + 2:], ' | '), '') || ')';
    select
      string_agg(arm.rows_sql, ' union all ' order by arm.place) filter (where arm.place < 3),
      string_agg(' union all ' || arm.rows_sql, '' order by arm.place) filter (where arm.place > 2)
    into first_sql, other_sql
    from (
      select a.place, format('(select s.%I as key, s.fts from %s s where s.fts @@ %L::tsquery%s%s%s limit %s)', collection.key_column, source,
        a.query,
        -- A CASE, because the planner would read thousands of lexemes of statistics again to guess what this leaves.
        ' and case when s.fts @@ ' || quote_literal(nullif(a.seen, '')) || '::tsquery then false else true end', condition, a.gate, row_budget) as rows_sql
      from (values
        (1, rare_query, '', ''),
        (2, pair_query, rare_query, ''),
        (3, words.terms[rare + 1], concat_ws(' | ', rare_query, '(' || pair_query || ')'), gate),
        (4, nullif(array_to_string(words.terms[rare + 2:], ' | '), ''),
          concat_ws(' | ', rare_query, words.terms[rare + 1]), gate)
      ) a (place, query, seen, gate)
      where a.query is not null
        -- Not worth planning where the rarest terms alone are known to fill the list.
        and (a.gate = '' or condition <> '' or rare_rows is null or rare_rows < depth)
    ) arm;
    bm25_sql := embedding.bm25_expression(words.terms, words.weights);
    select string_agg(format('case when d.fts @@ %L::tsquery then %s else 0 end', t.term, t.weight), ' + ') into held_sql
    from unnest(words.terms, words.weights) t (term, weight);
    k_sql := format('1.2 * (0.25 + 0.75 * length(s.fts) / %s)', words.average_length);
    -- fts || '' unpacks a compressed row once instead of once a term.
    words_sql := format(
      'with first as materialized (select f.* from (%s) f limit %s)
       select d.key, %s as bm25
       from (select s.key, s.fts, %s as k from (select a.key, a.fts || '''' as fts from (select * from first%s) a limit %s) s offset 0) d
       order by bm25 desc, d.key limit %s',
      coalesce(first_sql, format('select s.%I as key, s.fts from %s s where false', collection.key_column, source)), row_budget,
      bm25_sql, k_sql, other_sql, row_budget, depth);
  end if;

  -- The meaning leg: each model asked ranks the rows that it embedded. The expression and the WHERE are those of the index.
  if meaning_weight <> 0 then
    select
      string_agg(format(
        '(select s.%1$I as key from %2$s s where s.embedding_model = %3$L%4$s
          order by s.embedding::extensions.halfvec(%5$s) operator(extensions.<=>) $6[%6$s]::extensions.halfvec(%5$s) limit %7$s)',
        collection.key_column, source, v.model, condition, v.dimensions, v.place, depth), ' union all '),
      'case' || string_agg(format(
        ' when s.embedding_model = %L then nullif(1 - (s.embedding operator(extensions.<=>) $6[%s]), ''NaN'')',
        v.model, v.place), '') || ' end',
      array_agg(v.vector order by v.place)
    into meaning_sql, cosine_sql, vectors
    from embedding.query_vectors(collection.name, collection.model, query_embedding, embedding_model, query_embeddings)
      with ordinality v (model, dimensions, vector, place);
  end if;
  if words_sql is null and meaning_sql is null then
    return;
  end if;

  return query execute format(
    $sql$
    with words as materialized (%1$s),
    meaning as materialized (%2$s),
    -- Materialized, so that the join below compares bare columns: under row level security an expression in a join could
    -- leak, and the planner would read every visible row rather than let it near the primary key.
    found as materialized (
      select coalesce(w.key, m.key) as key, w.bm25, m.key is not null as by_meaning
      from words w
      full join meaning m on m.key = w.key
    ),
    part as (
      -- Every row that either leg found, scored by both.
      select d.key, d.model, coalesce(d.bm25, %3$s) as bm25, %4$s as held, d.cosine, d.by_meaning
      from (
        select s.%5$I as key, s.embedding_model as model, s.fts || '' as fts, %6$s as k, f.bm25, %7$s as cosine, f.by_meaning
        from found f
        join %8$s s on s.%5$I = f.key
        offset 0
      ) d
    ),
    best as (
      -- The cosines of two models are not alike: each is scaled by its own best row, as far as it holds rows enough to tell.
      select b.model, (b.rows * b.cosine + ($1 - b.rows) * max(b.cosine) over ()) / $1 as cosine
      from (select p.model, least(count(*), $1) as rows, max(p.cosine) as cosine from part p where p.by_meaning group by p.model) b
    ),
    scaled as (
      select p.key, nullif(p.bm25, 0) as bm25, p.bm25 / nullif(max(p.bm25) over (), 0) as words_share,
             case when %9$L then least(1, p.held / 8) * (p.held / $2) ^ (5.0 / $3) else 1 end as trust,
             p.cosine, p.by_meaning, (p.cosine + 1) / nullif(b.cosine + 1, 0) as meaning_share
      from part p
      left join best b on b.model = p.model
    ),
    ranked as (
      select r.*,
             case when r.bm25 is not null then row_number() over (order by r.bm25 desc nulls last, r.key) end as words_rank,
             case when r.by_meaning then row_number() over (order by r.by_meaning desc, r.meaning_share desc nulls last, r.key) end as meaning_rank
      from scaled r
    ),
    fused as (
      select r.*,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.words_rank) else r.words_share * r.trust end, 0)::float8 as words_score,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.meaning_rank) else r.meaning_share end, 0)::float8 as meaning_score
      from ranked r
    )
    select f.key::text, $4 * f.words_score + $5 * f.meaning_score, f.words_score, f.words_rank::int, f.meaning_score, f.meaning_rank::int,
           f.bm25, case when f.bm25 is not null then f.trust end::float8, f.cosine
    from fused f
    order by 2 desc, f.key
    limit %11$s
    $sql$,
    coalesce(words_sql, format('select s.%I as key, null::float8 as bm25 from %s s where false', collection.key_column, source)),
    coalesce(meaning_sql, format('select s.%I as key from %s s where false', collection.key_column, source)),
    bm25_sql, held_sql, collection.key_column, k_sql, coalesce(cosine_sql, 'null::float8'), source,
    words_sql is not null and meaning_sql is not null, method, wanted)
  using depth, words.all_weight, words.all_terms, words_weight, meaning_weight, vectors;
end;
$$;

create or replace function public.search_datasets(
  query_text text default null,
  query_embedding extensions.vector default null,
  match_count int default 10,
  filter_tag text default null,
  full_text_weight float default 0.3,
  semantic_weight float default 0.7,
  embedding_model text default null,
  query_embeddings jsonb default null,
  fusion text default 'weighted',
  static_weight float default 0.1,
  decay_weight float default 0.1,
  half_life_days float default 365
)
returns table (
  id uuid,
  title text,
  description text,
  url text,
  tags text[],
  published_at timestamptz,
  is_ready_for_search boolean,
  score float,
  hybrid_score float,
  full_text_score float,
  full_text_rank int,
  semantic_score float,
  semantic_rank int,
  static_score float,
  time_decay float
)
language plpgsql
stable
security invoker
rows 10
set search_path = ''
set hnsw.iterative_scan = 'relaxed_order'
as $$
#variable_conflict use_column
begin
  perform embedding.check_weight('static_weight', coalesce(static_weight, 0.1)), embedding.check_weight('decay_weight', coalesce(decay_weight, 0.1)),
    embedding.check_weight('half_life_days', coalesce(half_life_days, 365));
  if not coalesce(half_life_days, 365) > 0 then
    raise exception 'half_life_days must be more than 0, not %', half_life_days using errcode = '22023';
  end if;
  return query
  select p.id, p.title, p.description, p.url, p.tags, p.published_at, p.is_ready_for_search,
    p.hybrid_score + coalesce(static_weight, 0.1) * p.static_score + coalesce(decay_weight, 0.1) * p.time_decay as score,
    p.hybrid_score, p.full_text_score, p.full_text_rank, p.semantic_score, p.semantic_rank, p.static_score, p.time_decay
  from (
    select d.id, d.title, d.description, d.url, d.tags, d.published_at, d.is_ready_for_search,
      h.score as hybrid_score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank,
      coalesce(s.static_score, 0) as static_score,
      case
        when d.published_at is null then 0
        -- exp of less than this is 0, and an error.
        else exp(greatest(-ln(2::float) * greatest(extract(epoch from now() - d.published_at), 0)::float / 86400 / coalesce(half_life_days, 365), -700))
      end::float as time_decay
    from embedding.search_hits(
      'public.datasets', query_text, query_embedding, 200, jsonb_build_object('tags', jsonb_build_object('contains', filter_tag)),
      full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
    join public.datasets d on d.id = h.row_id::uuid
    left join public.dataset_scores s on s.dataset_id = d.id
    where d.is_active and d.enrichment_status = 'enriched'
  ) p
  order by 8 desc, p.id
  limit least(greatest(coalesce(match_count, 10), 1), 200);
end;
$$;
