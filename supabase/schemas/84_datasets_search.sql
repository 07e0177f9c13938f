create function public.search_datasets(
  query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter_tag text default null, full_text_weight float default 0.3, semantic_weight float default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted',
  static_weight float default 0.1, decay_weight float default 0.1, half_life_days float default 365
)
returns table (
  id uuid, title text, description text, url text, tags text[], published_at timestamptz, is_ready_for_search boolean, score float,
  hybrid_score float, full_text_score float, full_text_rank int, semantic_score float, semantic_rank int, static_score float,
  time_decay float
)
language plpgsql stable security invoker rows 10 set search_path = '' as $$
#variable_conflict use_column
begin
  perform embedding.check_weight('static_weight', coalesce(static_weight, 0.1)), embedding.check_weight('decay_weight', coalesce(decay_weight, 0.1)),
    embedding.check_weight('half_life_days', coalesce(half_life_days, 365));
  if not coalesce(half_life_days, 365) > 0 then
    raise exception 'half_life_days must be more than 0, not %', half_life_days using errcode = '22023';
  end if;
  return query
  select d.id, d.title, d.description, d.url, d.tags, d.published_at, d.is_ready_for_search,
    h.score + coalesce(static_weight, 0.1) * p.static_score + coalesce(decay_weight, 0.1) * p.time_decay as score,
    h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank, p.static_score, p.time_decay
  from embedding.search_hits(
    'public.datasets', query_text, query_embedding, 200, jsonb_build_object('tags', jsonb_build_object('contains', filter_tag)),
    full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
  join public.datasets d on d.id = h.row_id::uuid
  left join public.dataset_scores s on s.dataset_id = d.id
  cross join lateral (
    select coalesce(s.static_score, 0) as static_score, case
      when d.published_at is null then 0
      -- exp() raises an error if the result would be rounded to 0.
      else exp(greatest(-ln(2::float) * greatest(extract(epoch from now() - d.published_at), 0)::float / 86400 / coalesce(half_life_days, 365), -700))
    end::float as time_decay
  ) p
  where d.is_active and d.enrichment_status = 'enriched'
  order by 8 desc, d.id
  limit least(greatest(coalesce(match_count, 10), 1), 200);
end;
$$;
comment on function public.search_datasets is
  'Full-text, semantic or hybrid search, best first. score = full_text_weight * full_text_score + semantic_weight * '
  'semantic_score + static_weight * static_score + decay_weight * exp(-ln 2 * age in days / half_life_days). At most '
  '200 rows. Runs as the caller.';
revoke all on function public.search_datasets from public, anon, authenticated, service_role;
grant execute on function public.search_datasets to anon, authenticated, service_role;
