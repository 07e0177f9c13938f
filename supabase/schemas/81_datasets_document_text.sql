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
