"""The SQL of Supabase's guide to hybrid search, for comparison: ts_rank_cd, and reciprocal rank fusion with k = 50.

The guide limits match_count to 30. This limit is left out here, so that recall@100 compares the methods and not the limit.
"""


def guide_statement(columns: str, query: str, distance: str, count: int, condition: str = "true") -> str:
    """The statement over music_knowledge k, for a tsquery and the distance of a row's vector."""
    return f"""
        with full_text as (
          select id, row_number() over (order by ts_rank_cd(fts, {query}) desc) as rank_ix
          from public.music_knowledge where fts @@ {query} order by rank_ix limit {2 * count}
        ),
        semantic as (
          select id, row_number() over (order by {distance}) as rank_ix
          from public.music_knowledge where {condition} order by rank_ix limit {2 * count}
        )
        select {columns}
        from full_text full outer join semantic on full_text.id = semantic.id
        join public.music_knowledge k on coalesce(full_text.id, semantic.id) = k.id
        order by coalesce(1.0 / (50 + full_text.rank_ix), 0.0) + coalesce(1.0 / (50 + semantic.rank_ix), 0.0) desc
        limit {count}
    """  # noqa: S608 - all parts are the program's own
