create function public.search_music_knowledge(
  query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter_category text default null, full_text_weight float default 0.3, semantic_weight float default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted'
)
returns table (
  id uuid, topic text, category text, content text, score float, full_text_score float, full_text_rank int, semantic_score float,
  semantic_rank int
)
language sql stable security invoker rows 10 set search_path = '' as $$
  -- Cast the key here, not in the join below. Under row level security, PostgreSQL uses the primary key for a join only if the
  -- functions in the join condition are marked leakproof. The cast is not, so the whole table would be read.
  with hit as materialized (
    select h.row_id::uuid as id, h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank
    from embedding.search_hits(
      'public.music_knowledge', query_text, query_embedding, match_count,
      jsonb_build_object('category', filter_category),
      full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
  )
  select k.id, k.topic, k.category, k.content, h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank
  from hit h
  join public.music_knowledge k on k.id = h.id
  order by h.score desc, k.id;
$$;
comment on function public.search_music_knowledge is
  'Full-text, semantic or hybrid search, best first. score = full_text_weight * full_text_score + semantic_weight * '
  'semantic_score. A rank is NULL if the row was not among the candidates of that kind. At most 200 rows. Runs as the '
  'caller.';
revoke all on function public.search_music_knowledge from public, anon, authenticated, service_role;
grant execute on function public.search_music_knowledge to anon, authenticated, service_role;
