-- The text of code. Embeddings use the content. Full-text search uses path and content, with names split into their parts.
create function embedding.document_text(document public.code_chunks)
returns text language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  -- Use only the content: /embed makes its vectors from the content alone, so they can be stored here.
  select nullif(document.content, '')
$$;
comment on function embedding.document_text(public.code_chunks) is 'The text that is embedded: the content; null if it is empty.';
revoke all on function embedding.document_text(public.code_chunks) from public, anon, authenticated, service_role;
grant execute on function embedding.document_text(public.code_chunks) to service_role;

create function embedding.split_identifiers(source_text text)
returns text language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  -- "searchHits" is found by "search hits" and by its own name, "shared/retry.py" by "retry".
  select translate(source_text, '._/\-', '     ') || coalesce((
    select string_agg(regexp_replace(regexp_replace(m.word[1], '([a-z0-9])([A-Z])', '\1 \2', 'g'), '([A-Z])([A-Z][a-z])', '\1 \2', 'g'), ' ')
    from regexp_matches(source_text, '[A-Za-z0-9]*(?:[a-z0-9][A-Z]|[A-Z][A-Z][a-z])[A-Za-z0-9]*', 'g') m (word)), '')
$$;
comment on function embedding.split_identifiers is 'Code as plain text for full-text search, with the parts of camelCase names at its end.';
revoke all on function embedding.split_identifiers from public, anon, authenticated, service_role;
grant execute on function embedding.split_identifiers to anon, authenticated, service_role;

alter table public.code_chunks add column fts tsvector generated always as (
  embedding.fit_lexemes('english', embedding.split_identifiers(left(path || ' ' || content, 200000)))
) stored;

select public.track_embeddings('public.code_chunks');
