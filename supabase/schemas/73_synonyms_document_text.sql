-- The text of synonyms, for embeddings and for full-text search.
create function embedding.synonyms_text(tag_name text, synonyms jsonb)
returns text language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  -- Related tags are left out: they have rows of their own, which should be found instead.
  select string_agg(d.term, E'\n' order by d.place)
  from (
    select distinct on (lower(t.term)) t.term, t.place
    from (
      select tag_name, 0::bigint
      union all
      select e.value #>> '{}', l.place + e.place
      from (values ('$.search_terms[*]'::jsonpath, 0), ('$.translations.en[*]', 100), ('$.translations.fr[*]', 200))
        l (path, place)
      cross join lateral jsonb_path_query(synonyms, l.path) with ordinality e (value, place)
      union all
      select synonyms ->> 'usage_context', 300
    ) t (term, place)
    where t.term <> ''
    order by lower(t.term), t.place
  ) d
$$;
comment on function embedding.synonyms_text is 'Name, terms, translations and usage of a tag, each on its own line, without duplicates.';
revoke all on function embedding.synonyms_text from public, anon, authenticated, service_role;
grant execute on function embedding.synonyms_text to service_role;

create function embedding.document_text(document public.mir_synonyms)
returns text language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select case when document.is_active then nullif(embedding.synonyms_text(document.tag_name, document.synonyms), '') end
$$;
comment on function embedding.document_text(public.mir_synonyms) is 'The text of synonyms_text for this row; null if the synonyms are inactive.';
revoke all on function embedding.document_text(public.mir_synonyms) from public, anon, authenticated, service_role;
grant execute on function embedding.document_text(public.mir_synonyms) to service_role;

alter table public.mir_synonyms add column fts tsvector generated always as (
  case when is_active then embedding.lexemes(embedding.synonyms_text(tag_name, synonyms), 'english', 'french') end
) stored;

-- The configuration is simple, because fts already contains the lexemes of two languages (30_full_text_languages.sql).
select public.track_embeddings('public.mir_synonyms', text_config => 'simple');
