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
