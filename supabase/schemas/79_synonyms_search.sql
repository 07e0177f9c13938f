create function public.search_mir_synonyms(
  query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter_tag_type text default null, full_text_weight float default 0.3, semantic_weight float default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted'
)
returns table (
  id bigint, tag_id bigint, tag_type text, tag_name text, synonyms jsonb, source text, confidence float, score float,
  full_text_score float, full_text_rank int, semantic_score float, semantic_rank int
)
language sql stable security invoker rows 10 set search_path = '' as $$
  select s.id, s.tag_id, s.tag_type, s.tag_name, s.synonyms, s.source, s.confidence,
         h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank
  from embedding.search_hits(
    'public.mir_synonyms', embedding.query_lexemes(query_text, 'english', 'french'), query_embedding, match_count,
    jsonb_build_object('tag_type', filter_tag_type, 'is_active', true),
    full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
  join public.mir_synonyms s on s.id = h.row_id::bigint
  order by h.score desc, s.id;
$$;
comment on function public.search_mir_synonyms is
  'Full-text (English or French), semantic or hybrid search over tags and their active synonyms, best first. score = '
  'full_text_weight * full_text_score + semantic_weight * semantic_score. At most 200 rows. Runs as the caller.';
revoke all on function public.search_mir_synonyms from public, anon, authenticated, service_role;
grant execute on function public.search_mir_synonyms to anon, authenticated, service_role;

create function public.search_mir_synonyms_by_tag(tag_type text, tag_name text)
returns table (
  id bigint, tag_id bigint, tag_type text, tag_name text, synonyms jsonb, source text, confidence float, updated_at timestamptz
)
language sql stable security invoker rows 1 set search_path = '' as $$
  select s.id, s.tag_id, s.tag_type, s.tag_name, s.synonyms, s.source, s.confidence, s.updated_at
  from public.mir_synonyms s
  where s.tag_type = search_mir_synonyms_by_tag.tag_type and s.is_active
    -- A name has at most 100 characters.
    and s.tag_id = (select embedding.find_tag(search_mir_synonyms_by_tag.tag_type, left(search_mir_synonyms_by_tag.tag_name, 200)));
$$;
comment on function public.search_mir_synonyms_by_tag is
  'The active synonyms of the tag with that name in any spelling ("hip hop" for "Hip-Hop"). Runs as the caller.';
revoke all on function public.search_mir_synonyms_by_tag from public, anon, authenticated, service_role;
grant execute on function public.search_mir_synonyms_by_tag to anon, authenticated, service_role;
