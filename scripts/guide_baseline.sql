-- The recipe of Supabase's guide to hybrid search, for comparison: AND of all words, ts_rank_cd, reciprocal
-- rank fusion with k = 50. The guide caps match_count at 30; the cap is lifted here, so that recall@100
-- compares the method and not the cap.
create function public.guide_hybrid_search(
  query_text text,
  query_embedding extensions.vector,
  match_count int,
  full_text_weight float = 1,
  semantic_weight float = 1,
  rrf_k int = 50
)
returns setof public.music_knowledge
language sql
as $$
with full_text as (
  select
    id,
    row_number() over (order by ts_rank_cd(fts, websearch_to_tsquery('english', query_text)) desc) as rank_ix
  from public.music_knowledge
  where fts @@ websearch_to_tsquery('english', query_text)
  order by rank_ix
  limit match_count * 2
),
semantic as (
  select
    id,
    row_number() over (
      order by embedding::extensions.vector(DIMENSIONS) operator(extensions.<=>) query_embedding::extensions.vector(DIMENSIONS)
    ) as rank_ix
  from public.music_knowledge
  order by rank_ix
  limit match_count * 2
)
select k.*
from full_text
full outer join semantic on full_text.id = semantic.id
join public.music_knowledge k on coalesce(full_text.id, semantic.id) = k.id
order by
  coalesce(1.0 / (rrf_k + full_text.rank_ix), 0.0) * full_text_weight
  + coalesce(1.0 / (rrf_k + semantic.rank_ix), 0.0) * semantic_weight
  desc
limit match_count;
$$;
