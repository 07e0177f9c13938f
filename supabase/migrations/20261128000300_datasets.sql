-- Generated from supabase/schemas by `make migrations`; do not edit.
select pg_advisory_xact_lock(32773617387664506);

-- 80_datasets.sql

-- A catalogue of datasets. Only the datasets that are enriched and active are embedded.
--
-- The name of a constraint is the error message that a caller reads (see shared/database/translate.py).
create table public.datasets (
  id uuid primary key default gen_random_uuid(),
  external_id text unique constraint "external_id must not be empty" check (external_id <> ''),
  title text not null constraint "title must not be empty" check (btrim(title) <> ''),
  description text not null default '',
  url text,
  tags text[] not null default '{}',
  metadata jsonb not null default '{}',
  enrichment_status text not null default 'pending'
    constraint "enrichment_status: pending, in_progress, enriched or failed" check (
      enrichment_status in ('pending', 'in_progress', 'enriched', 'failed')),
  is_active boolean not null default true,
  published_at timestamptz constraint "published_at must be a point in time" check (isfinite(published_at)),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.datasets is 'Datasets. Those that are enriched and active are embedded; see dataset_overview for the score of each.';
comment on column public.datasets.external_id is 'The key of the row in the imported file, so that a second import of the same file changes nothing.';
create index datasets_tags_idx on public.datasets using gin (tags);

create trigger touch_updated_at after update on public.datasets
referencing old table as old_rows new table as new_rows
for each statement execute function embedding.touch_updated_at(
  'external_id', 'title', 'description', 'url', 'tags', 'metadata', 'enrichment_status', 'is_active', 'published_at');

alter table public.datasets enable row level security;
create policy "everyone reads" on public.datasets for select to anon, authenticated using (true);
revoke all on public.datasets from public, anon, authenticated, service_role;
grant select on public.datasets to anon, authenticated;
grant select, insert, update, delete on public.datasets to service_role;

-- 81_datasets_document_text.sql

-- The text of datasets for embeddings and full-text search: the title twice, and the description.
create function embedding.dataset_text(title text, description text, enrichment_status text, is_active boolean)
returns text language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select case when is_active and enrichment_status = 'enriched' then concat_ws(E'\n', title, title, nullif(description, '')) end
$$;
comment on function embedding.dataset_text is
  'The text of a dataset: the title twice, which gives it more weight, and then the description. Null if the dataset is not enriched or not active.';
revoke all on function embedding.dataset_text from public, anon, authenticated, service_role;
grant execute on function embedding.dataset_text to service_role;

create function embedding.document_text(document public.datasets)
returns text language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select embedding.dataset_text(document.title, document.description, document.enrichment_status, document.is_active)
$$;
comment on function embedding.document_text(public.datasets) is 'The text of dataset_text for this row.';
revoke all on function embedding.document_text(public.datasets) from public, anon, authenticated, service_role;
grant execute on function embedding.document_text(public.datasets) to service_role;

alter table public.datasets add column fts tsvector generated always as (
  -- The title twice, as in the text that is embedded.
  case when is_active and enrichment_status = 'enriched' then to_tsvector('english', title || E'\n' || title || E'\n' || description) end
) stored;

select public.track_embeddings('public.datasets');

alter table public.datasets add column is_ready_for_search boolean generated always as (
  coalesce(
    embedding is not null
    and substring(embedding_hash for 32) = embedding.text_hash(embedding.dataset_text(title, description, enrichment_status, is_active)),
    false)
) stored;

comment on column public.datasets.is_ready_for_search is
  'Whether the row is active, enriched and embedded with its present text. Until then only full-text search finds it.';

create trigger check_lexeme_count before insert on public.datasets for each row
when (new.is_active and new.enrichment_status = 'enriched' and 2 * octet_length(new.title) + octet_length(new.description) > 200000)
execute function embedding.check_lexeme_count('title', 'title', 'description');

-- 82_datasets_scores.sql

-- The static score of a dataset. It changes often and is not part of the text, so it has a table of its own: an update of any
-- column of a tracked row may insert the row's vector into the HNSW index again.
create table public.dataset_scores (
  dataset_id uuid primary key references public.datasets (id) on delete cascade,
  static_score double precision not null
    constraint "static_score must be between 0 and 1" check (static_score between 0 and 1),
  updated_at timestamptz not null default now()
);
comment on table public.dataset_scores is 'A score of each dataset from 0 to 1 that does not depend on the query. A dataset without a row has the score 0.';
alter table public.dataset_scores enable row level security;
create policy "everyone reads" on public.dataset_scores for select to anon, authenticated using (true);
revoke all on public.dataset_scores from public, anon, authenticated, service_role;
grant select on public.dataset_scores to anon, authenticated;
grant select, insert, update, delete on public.dataset_scores to service_role;
select embedding.admit_service_role('public.dataset_scores');

create function public.set_dataset_scores(rows jsonb)
returns integer language plpgsql security invoker set search_path = '' as $$
declare
  changed integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {id, static_score}' using errcode = '22023';
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
comment on function public.set_dataset_scores is 'Sets scores: rows is [{id, static_score}]. Returns how many changed. No row of the tracked table is written.';
revoke all on function public.set_dataset_scores from public, anon, authenticated, service_role;
grant execute on function public.set_dataset_scores to service_role;

create view public.dataset_overview with (security_invoker = true) as
select d.id, d.external_id, d.title, d.description, d.url, d.tags, d.metadata, d.enrichment_status, d.is_active, d.is_ready_for_search,
       coalesce(s.static_score, 0) as static_score, d.published_at, d.created_at, d.updated_at
from public.datasets d
left join public.dataset_scores s on s.dataset_id = d.id;

comment on view public.dataset_overview is 'Datasets with their score, one row for each dataset.';
revoke all on public.dataset_overview from public, anon, authenticated, service_role;
grant select on public.dataset_overview to anon, authenticated, service_role;

-- 83_datasets_upsert.sql

create function public.upsert_datasets(rows jsonb)
returns table (inserted integer, updated integer, unchanged integer)
language plpgsql security invoker set search_path = '' as $$
declare
  given integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {external_id, title, ...}' using errcode = '22023';
  end if;
  with incoming as materialized (
    -- If two rows have the same external_id, the later one is used.
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
    -- An unchanged row is not written, so that nothing is indexed again.
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
comment on function public.upsert_datasets is
  'Inserts or updates datasets by external_id: [{external_id, title, description, url, tags, metadata, enrichment_status, is_active, published_at, static_score}]. '
  'Unchanged rows are not written, so they keep their vectors.';
revoke all on function public.upsert_datasets from public, anon, authenticated, service_role;
grant execute on function public.upsert_datasets to service_role;

-- 84_datasets_search.sql

create function public.search_datasets(
  query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter_tag text default null, full_text_weight float default 0.3, semantic_weight float default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted',
  static_weight float default 0.1, decay_weight float default 0.1, half_life_days float default 365
)
returns table (
  id uuid, title text, description text, url text, tags text[], published_at timestamptz, is_ready_for_search boolean, score float,
  hybrid_score float, full_text_score float, full_text_rank int, semantic_score float, semantic_rank int, static_score float,
  time_decay float
)
language plpgsql stable security invoker rows 10 set search_path = '' as $$
#variable_conflict use_column
begin
  perform embedding.check_weight('static_weight', coalesce(static_weight, 0.1)), embedding.check_weight('decay_weight', coalesce(decay_weight, 0.1)),
    embedding.check_weight('half_life_days', coalesce(half_life_days, 365));
  if not coalesce(half_life_days, 365) > 0 then
    raise exception 'half_life_days must be more than 0, not %', half_life_days using errcode = '22023';
  end if;
  return query
  select d.id, d.title, d.description, d.url, d.tags, d.published_at, d.is_ready_for_search,
    h.score + coalesce(static_weight, 0.1) * p.static_score + coalesce(decay_weight, 0.1) * p.time_decay as score,
    h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank, p.static_score, p.time_decay
  from embedding.search_hits(
    'public.datasets', query_text, query_embedding, 200, jsonb_build_object('tags', jsonb_build_object('contains', filter_tag)),
    full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
  join public.datasets d on d.id = h.row_id::uuid
  left join public.dataset_scores s on s.dataset_id = d.id
  cross join lateral (
    select coalesce(s.static_score, 0) as static_score, case
      when d.published_at is null then 0
      -- exp() raises an error if the result would be rounded to 0.
      else exp(greatest(-ln(2::float) * greatest(extract(epoch from now() - d.published_at), 0)::float / 86400 / coalesce(half_life_days, 365), -700))
    end::float as time_decay
  ) p
  where d.is_active and d.enrichment_status = 'enriched'
  order by 8 desc, d.id
  limit least(greatest(coalesce(match_count, 10), 1), 200);
end;
$$;
comment on function public.search_datasets is
  'Full-text, semantic or hybrid search, best first. score = full_text_weight * full_text_score + semantic_weight * '
  'semantic_score + static_weight * static_score + decay_weight * exp(-ln 2 * age in days / half_life_days). At most '
  '200 rows. Runs as the caller.';
revoke all on function public.search_datasets from public, anon, authenticated, service_role;
grant execute on function public.search_datasets to anon, authenticated, service_role;
