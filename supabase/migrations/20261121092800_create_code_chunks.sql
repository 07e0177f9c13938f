-- Pieces of source code. Their id is the caller's own (chunk_id of /embed), and their vectors may come along.

create function embedding.split_identifiers(source_text text)
returns text
language sql
immutable strict parallel safe
set search_path = ''
-- "searchHits" is found by "search hits" and by its own name, "shared/retry.py" by "retry".
return translate(source_text, '._/\-', '     ') || coalesce((
  select string_agg(regexp_replace(regexp_replace(m.word[1], '([a-z0-9])([A-Z])', '\1 \2', 'g'), '([A-Z])([A-Z][a-z])', '\1 \2', 'g'), ' ')
  from regexp_matches(source_text, '[A-Za-z0-9]*(?:[a-z0-9][A-Z]|[A-Z][A-Z][a-z])[A-Za-z0-9]*', 'g') m (word)), '');
comment on function embedding.split_identifiers(text) is
  'Source code as words: separators become spaces, and the parts of camelCase names stand at the end.';

create function embedding.code_words(path text, content text)
returns tsvector
language sql
immutable parallel safe
set search_path = ''
-- As much of a text as surely fits a tsvector.
return to_tsvector('english', embedding.split_identifiers(left(concat_ws(' ', path, content), 200000)));
comment on function embedding.code_words(text, text) is 'The words of a piece of code and of its path, for keyword search.';

revoke all on function embedding.split_identifiers(text), embedding.code_words(text, text) from public;
grant execute on function embedding.split_identifiers(text) to anon, authenticated, service_role;
grant execute on function embedding.code_words(text, text) to service_role;

create table public.code_chunks (
  id text primary key check (id <> ''),
  path text not null default '',
  content text not null,
  language text,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  fts tsvector generated always as (embedding.code_words(path, content)) stored
);
comment on table public.code_chunks is 'Pieces of source code, searchable by words and by meaning, below a path where one is given.';
create index code_chunks_path_idx on public.code_chunks (path collate "C");

create trigger touch_updated_at after update on public.code_chunks
referencing old table as old_rows new table as new_rows
for each statement execute function embedding.touch_updated_at('path', 'content', 'language', 'metadata');

alter table public.code_chunks enable row level security;
create policy "everyone reads" on public.code_chunks for select to anon, authenticated using (true);
revoke all on public.code_chunks from anon, authenticated;
grant select on public.code_chunks to anon, authenticated;
grant select, insert, update, delete on public.code_chunks to service_role;

create function embedding.document_text(document public.code_chunks)
returns text
language sql
stable parallel safe
set search_path = ''
-- The content alone: it is what /embed was given, so its vectors can be stored here.
return nullif(document.content, '');
comment on function embedding.document_text(public.code_chunks) is 'The content.';
revoke all on function embedding.document_text(public.code_chunks) from public;
grant execute on function embedding.document_text(public.code_chunks) to service_role;

select public.track_embeddings('public.code_chunks');

create function public.store_code_chunks(model text, rows jsonb)
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
comment on function public.store_code_chunks(text, jsonb) is
  'Write chunks with the vectors of their content: [{id, path, content, language, metadata, embedding}]. Returns how many were new or changed.';
revoke all on function public.store_code_chunks(text, jsonb) from public, anon, authenticated;
grant execute on function public.store_code_chunks(text, jsonb) to service_role;
