-- Generated from supabase/schemas by `make migrations`; do not edit.
select pg_advisory_xact_lock(32773617387664506);

-- 90_code_chunks.sql

-- Pieces of source code. The id is the caller's own (chunk_id of /embed).
create table public.code_chunks (
  id text primary key constraint "id must not be empty" check (id <> ''),
  path text not null default '',
  content text not null,
  language text,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.code_chunks is 'Pieces of source code, found by full-text and by semantic search. A search can be limited to a path.';
create index code_chunks_path_idx on public.code_chunks (path collate "C");

create trigger touch_updated_at after update on public.code_chunks
referencing old table as old_rows new table as new_rows
for each statement execute function embedding.touch_updated_at('path', 'content', 'language', 'metadata');

alter table public.code_chunks enable row level security;
create policy "everyone reads" on public.code_chunks for select to anon, authenticated using (true);
revoke all on public.code_chunks from public, anon, authenticated, service_role;
grant select on public.code_chunks to anon, authenticated;
grant select, insert, update, delete on public.code_chunks to service_role;

-- 91_code_chunks_document_text.sql

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

-- 92_code_chunks_store.sql

-- Stores pieces of code together with the vectors of their content.
create function public.store_code_chunks(model text, rows jsonb)
returns integer language plpgsql security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.check_model(embedding.get_collection('code_chunks'), store_code_chunks.model);
  stored integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {id, path, content, language, metadata, embedding}' using errcode = '22023';
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
  -- An unchanged row is not written, so that its vector stays in the index.
  where (k.path, k.content, k.metadata, k.embedding_model, substring(k.embedding_hash for 32))
      is distinct from (excluded.path, excluded.content, excluded.metadata, excluded.embedding_model, excluded.embedding_hash)
    or excluded.language is distinct from coalesce(excluded.language, k.language);
  get diagnostics stored = row_count;
  return stored;
end;
$$;
comment on function public.store_code_chunks is
  'Inserts or updates chunks with the vectors of their content: [{id, path, content, language, metadata, embedding}]. Returns how many were new or changed.';
revoke all on function public.store_code_chunks from public, anon, authenticated, service_role;
grant execute on function public.store_code_chunks to service_role;

-- 93_code_chunks_search.sql

create function public.search_code_chunks(
  query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter_path text default null, full_text_weight float default 0.3, semantic_weight float default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted'
)
returns table (
  id text, path text, language text, content text, metadata jsonb, score float, full_text_score float, full_text_rank int,
  semantic_score float, semantic_rank int
)
language sql stable security invoker rows 10 set search_path = '' as $$
  select k.id, k.path, k.language, k.content, k.metadata, h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank
  from embedding.search_hits(
    'public.code_chunks', embedding.split_identifiers(left(query_text, 24000)), query_embedding, match_count,
    jsonb_build_object('path', case
      when length(filter_path) <= 10000 and filter_path ~ '[*?]'
        then jsonb_build_object('like', translate(regexp_replace(filter_path, '([\\%_])', '\\\1', 'g'), '*?', '%_'))
      else jsonb_build_object('prefix', filter_path)
    end),
    full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
  join public.code_chunks k on k.id = h.row_id
  order by h.score desc, k.id;
$$;
comment on function public.search_code_chunks is
  'Full-text, semantic or hybrid search, best first; a camelCase name is also found by its parts. filter_path is the '
  'beginning of a path, or a pattern with * and ?. score = full_text_weight * full_text_score + semantic_weight * '
  'semantic_score. At most 200 rows. Runs as the caller.';
revoke all on function public.search_code_chunks from public, anon, authenticated, service_role;
grant execute on function public.search_code_chunks to anon, authenticated, service_role;
