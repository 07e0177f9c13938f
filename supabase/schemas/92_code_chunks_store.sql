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
