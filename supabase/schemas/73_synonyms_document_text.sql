-- What is embedded for synonyms, and what full-text search finds them by: the same text.
create function embedding.synonyms_text(tag_name text, synonyms jsonb)
returns text language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  -- Related tags are left out: they have rows of their own, which should be found instead.
  select (
    select string_agg(distinct_term.term, E'\n' order by distinct_term.place)
    from (
      select distinct on (lower(t.term)) t.term, t.place
      from (
        select tag_name, 0::bigint
        union all
        select a.term, a.place from jsonb_path_query(synonyms, '$.search_terms[*]') with ordinality p (value, place)
          cross join lateral (select p.value #>> '{}', p.place) a (term, place)
        union all
        select a.term, a.place from jsonb_path_query(synonyms, '$.translations.en[*]') with ordinality p (value, place)
          cross join lateral (select p.value #>> '{}', 100 + p.place) a (term, place)
        union all
        select a.term, a.place from jsonb_path_query(synonyms, '$.translations.fr[*]') with ordinality p (value, place)
          cross join lateral (select p.value #>> '{}', 200 + p.place) a (term, place)
        union all
        select synonyms ->> 'usage_context', 300
      ) t (term, place)
      where t.term <> ''
      order by lower(t.term), t.place
    ) distinct_term
  )
$$;
comment on function embedding.synonyms_text is
  'A tag''s name, its terms, its translations and its usage, a line each and none twice.';
revoke all on function embedding.synonyms_text from public, anon, authenticated, service_role;
grant execute on function embedding.synonyms_text to service_role;

create function embedding.document_text(document public.mir_synonyms)
returns text language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select case when document.is_active then nullif(embedding.synonyms_text(document.tag_name, document.synonyms), '') end
$$;
comment on function embedding.document_text(public.mir_synonyms) is
  'Name, terms, translations and usage of a tag; null where its synonyms are inactive.';
revoke all on function embedding.document_text(public.mir_synonyms) from public, anon, authenticated, service_role;
grant execute on function embedding.document_text(public.mir_synonyms) to service_role;

alter table public.mir_synonyms add column fts tsvector generated always as (
  case when is_active then embedding.lexemes(embedding.synonyms_text(tag_name, synonyms), 'english', 'french') end
) stored;

-- simple: fts holds the lexemes of two languages already, see 30_full_text_languages.sql.
select public.track_embeddings('public.mir_synonyms', text_config => 'simple');
