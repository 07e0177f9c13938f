-- Loads pgvector, whose settings (hnsw.*) are named below.

select '[0]'::extensions.vector is not null;

create function embedding.check_weight(argument text, weight double precision)
returns double precision
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Infinity times nothing is not a number, and neither is any sum with it: rows would come in no order at all.
  if abs(weight) < 'infinity' then
    return weight;
  end if;
  raise exception '% must be a finite number, not %', argument, coalesce(weight::text, '<null>') using errcode = '22023';
end;
$$;
comment on function embedding.check_weight(text, double precision) is 'This weight; refuses NaN and the infinities, by the argument''s name.';

create function embedding.query_vectors(
  collection_name text,
  collection_model text,
  query_embedding extensions.vector,
  embedding_model text,
  query_embeddings jsonb
)
returns table (model text, dimensions int, vector extensions.vector)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  asked record;
begin
  if jsonb_typeof(query_embeddings) not in ('object', 'null') then
    raise exception 'query_embeddings must be an object of models and vectors, not %', jsonb_typeof(query_embeddings)
      using errcode = '22023';
  end if;
  for asked in
    select e.key as model, (e.value #>> '{}')::extensions.vector as vector, format('query_embeddings[%s]', e.key) as argument
    from jsonb_each(case when jsonb_typeof(query_embeddings) = 'object' then query_embeddings end) e
    where jsonb_typeof(e.value) <> 'null'
    union all
    select coalesce(embedding_model, collection_model), query_embedding, 'query_embedding'
    where query_embedding is not null and coalesce(embedding_model, collection_model) is not null
      and not coalesce(query_embeddings ? coalesce(embedding_model, collection_model), false)
    order by 1
  loop
    model := asked.model;
    vector := asked.vector;
    dimensions := embedding.model_dimensions(asked.model);
    if dimensions is null then
      raise exception 'model "%" is not registered', asked.model using errcode = '22023';
    elsif extensions.vector_dims(vector) <> dimensions then
      raise exception '% has % dimensions, but model "%" of collection "%" has %',
        asked.argument, extensions.vector_dims(vector), asked.model, collection_name, dimensions
        using errcode = '22023', hint = 'Embed the query with the model that embedded the rows.';
    elsif extensions.vector_norm(vector) = 0 then
      raise exception '% is a zero vector, which points nowhere', asked.argument using errcode = '22023';
    end if;
    -- Cosine knows no length, but half precision has a largest number and single precision a least square.
    vector := extensions.l2_normalize(vector);
    return next;
  end loop;
end;
$$;
comment on function embedding.query_vectors(text, text, extensions.vector, text, jsonb) is
  'The query''s vector for each model to be asked, checked: every model registered, every vector as wide as its model.';

create function embedding.search_hits(
  source regclass,
  query_text text default null,
  query_embedding extensions.vector default null,
  match_count int default 10,
  filter jsonb default null,
  full_text_weight float8 default 0.3,
  semantic_weight float8 default 0.7,
  embedding_model text default null,
  query_embeddings jsonb default null,
  fusion text default 'weighted'
)
returns table (
  row_id text,
  score float8,
  full_text_score float8,
  full_text_rank int,
  semantic_score float8,
  semantic_rank int,
  bm25 float8,
  full_text_trust float8,
  cosine float8
)
language plpgsql
stable
security invoker
rows 10
set search_path = pg_catalog, pg_temp
set hnsw.iterative_scan = 'relaxed_order'
set hnsw.ef_search = 200
set hnsw.max_scan_tuples = 40000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
declare
  row_budget constant int := 600;        -- rows scored by BM25
  wanted constant int := least(greatest(coalesce(match_count, 10), 1), 200);
  depth constant int := greatest(wanted, 100);
  words_weight constant float8 := embedding.check_weight('full_text_weight', coalesce(full_text_weight, 0.3));
  meaning_weight constant float8 := embedding.check_weight('semantic_weight', coalesce(semantic_weight, 0.7));
  method constant text := coalesce(fusion, 'weighted');
  collection record;
  words record;
  condition text;
  gate constant text := format(' and (select count(*) from first) < %s', depth);
  rare int;                              -- how many of the rarest terms fit into the budget as a whole
  rare_rows float8;
  rare_query text;
  pair_query text;
  bm25_sql text := 'null::float8';
  held_sql text := 'null::float8';
  cosine_sql text;
  vectors extensions.vector[];
  k_sql text := 'null::float8';
  first_sql text;
  other_sql text;
  words_sql text;
  meaning_sql text;
begin
  select c.* into collection from embedding.describe_collection(source) c;
  if not found then
    raise exception '% is not tracked', source
      using errcode = '42704', hint = 'Track it first: select track_embeddings(''...'').';
  end if;
  if method not in ('weighted', 'rrf') then
    raise exception 'fusion must be weighted or rrf, not "%"', method using errcode = '22023';
  end if;
  condition := embedding.filter_condition(source, filter);

  -- The words leg: rows that hold one of the rarest terms, then rows that hold two of the others, until the budget is spent;
  -- rows that hold a single common word only where little else was found. Each query is a literal, so that the planner
  -- weighs it by its own rarity.
  select t.* into words from embedding.query_terms(source, query_text, collection.text_config) t where words_weight <> 0;
  if cardinality(words.terms) > 0 then
    select count(*), max(c.so_far) into rare, rare_rows
    from (select sum(c.n) over (order by c.place) as so_far from unnest(words.counts) with ordinality c (n, place)) c
    where c.so_far <= row_budget;
    rare_query := nullif(array_to_string(words.terms[1:rare], ' | '), '');
    pair_query := words.terms[rare + 1] || ' & (' || nullif(array_to_string(words.terms[rare + 2:], ' | '), '') || ')';
    select
      string_agg(arm.rows_sql, ' union all ' order by arm.place) filter (where arm.place < 3),
      string_agg(' union all ' || arm.rows_sql, '' order by arm.place) filter (where arm.place > 2)
    into first_sql, other_sql
    from (
      select a.place, format('(select s.%I as key, s.fts from %s s where s.fts @@ %L::tsquery%s%s%s limit %s)', collection.key_column, source,
        a.query,
        -- A CASE, because the planner would read thousands of lexemes of statistics again to guess what this leaves.
        ' and case when s.fts @@ ' || quote_literal(nullif(a.seen, '')) || '::tsquery then false else true end', condition, a.gate, row_budget) as rows_sql
      from (values
        (1, rare_query, '', ''),
        (2, pair_query, rare_query, ''),
        (3, words.terms[rare + 1], concat_ws(' | ', rare_query, '(' || pair_query || ')'), gate),
        (4, nullif(array_to_string(words.terms[rare + 2:], ' | '), ''),
          concat_ws(' | ', rare_query, words.terms[rare + 1]), gate)
      ) a (place, query, seen, gate)
      where a.query is not null
        -- Not worth planning where the rarest terms alone are known to fill the list.
        and (a.gate = '' or condition <> '' or rare_rows is null or rare_rows < depth)
    ) arm;
    bm25_sql := embedding.bm25_expression(words.terms, words.weights);
    select string_agg(format('case when d.fts @@ %L::tsquery then %s else 0 end', t.term, t.weight), ' + ') into held_sql
    from unnest(words.terms, words.weights) t (term, weight);
    k_sql := format('1.2 * (0.25 + 0.75 * length(s.fts) / %s)', words.average_length);
    -- fts || '' unpacks a compressed row once instead of once a term.
    words_sql := format(
      'with first as materialized (select f.* from (%s) f limit %s)
       select d.key, %s as bm25
       from (select s.key, s.fts, %s as k from (select a.key, a.fts || '''' as fts from (select * from first%s) a limit %s) s offset 0) d
       order by bm25 desc, d.key limit %s',
      coalesce(first_sql, format('select s.%I as key, s.fts from %s s where false', collection.key_column, source)), row_budget,
      bm25_sql, k_sql, other_sql, row_budget, depth);
  end if;

  -- The meaning leg: each model asked ranks the rows that it embedded. The expression and the WHERE are those of the index.
  if meaning_weight <> 0 then
    select
      string_agg(format(
        '(select s.%1$I as key from %2$s s where s.embedding_model = %3$L%4$s
          order by s.embedding::extensions.halfvec(%5$s) operator(extensions.<=>) $6[%6$s]::extensions.halfvec(%5$s) limit %7$s)',
        collection.key_column, source, v.model, condition, v.dimensions, v.place, depth), ' union all '),
      'case' || string_agg(format(
        ' when s.embedding_model = %L then nullif(1 - (s.embedding operator(extensions.<=>) $6[%s]), ''NaN'')',
        v.model, v.place), '') || ' end',
      array_agg(v.vector order by v.place)
    into meaning_sql, cosine_sql, vectors
    from embedding.query_vectors(collection.name, collection.model, query_embedding, embedding_model, query_embeddings)
      with ordinality v (model, dimensions, vector, place);
  end if;
  if words_sql is null and meaning_sql is null then
    return;
  end if;

  return query execute format(
    $sql$
    with words as materialized (%1$s),
    meaning as materialized (%2$s),
    -- Materialized, so that the join below compares bare columns: under row level security an expression in a join could
    -- leak, and the planner would read every visible row rather than let it near the primary key.
    found as materialized (
      select coalesce(w.key, m.key) as key, w.bm25, m.key is not null as by_meaning
      from words w
      full join meaning m on m.key = w.key
    ),
    part as (
      -- Every row that either leg found, scored by both.
      select d.key, d.model, coalesce(d.bm25, %3$s) as bm25, %4$s as held, d.cosine, d.by_meaning
      from (
        select s.%5$I as key, s.embedding_model as model, s.fts || '' as fts, %6$s as k, f.bm25, %7$s as cosine, f.by_meaning
        from found f
        join %8$s s on s.%5$I = f.key
        offset 0
      ) d
    ),
    best as (
      -- The cosines of two models are not alike: each is scaled by its own best row, as far as it holds rows enough to tell.
      select b.model, (b.rows * b.cosine + ($1 - b.rows) * max(b.cosine) over ()) / $1 as cosine
      from (select p.model, least(count(*), $1) as rows, max(p.cosine) as cosine from part p where p.by_meaning group by p.model) b
    ),
    scaled as (
      select p.key, nullif(p.bm25, 0) as bm25, p.bm25 / nullif(max(p.bm25) over (), 0) as words_share,
             case when %9$L then least(1, p.held / 8) * (p.held / $2) ^ (5.0 / $3) else 1 end as trust,
             p.cosine, p.by_meaning, (p.cosine + 1) / nullif(b.cosine + 1, 0) as meaning_share
      from part p
      left join best b on b.model = p.model
    ),
    judged as (
      -- A row that no model asked has embedded yet may mean anything: between the worst and the best of those that were
      -- found by meaning, as far as its words tell. Without it no text could be found by its words until it is embedded.
      select s.*, coalesce(s.meaning_share, m.worst + (1 - m.worst) * s.words_share * s.trust) as meaning_guess
      from scaled s
      cross join (select min(x.meaning_share) as worst from scaled x where x.by_meaning) m
    ),
    ranked as (
      select r.*,
             case when r.bm25 is not null then row_number() over (order by r.bm25 desc nulls last, r.key) end as words_rank,
             case when r.by_meaning then row_number() over (order by r.by_meaning desc, r.meaning_share desc nulls last, r.key) end as meaning_rank
      from judged r
    ),
    fused as (
      select r.*,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.words_rank) else r.words_share * r.trust end, 0)::float8 as words_score,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.meaning_rank) else r.meaning_guess end, 0)::float8 as meaning_score
      from ranked r
    )
    select f.key::text, $4 * f.words_score + $5 * f.meaning_score, f.words_score, f.words_rank::int, f.meaning_score, f.meaning_rank::int,
           f.bm25, case when f.bm25 is not null then f.trust end::float8, f.cosine
    from fused f
    order by 2 desc, f.key
    limit %11$s
    $sql$,
    coalesce(words_sql, format('select s.%I as key, null::float8 as bm25 from %s s where false', collection.key_column, source)),
    coalesce(meaning_sql, format('select s.%I as key from %s s where false', collection.key_column, source)),
    bm25_sql, held_sql, collection.key_column, k_sql, coalesce(cosine_sql, 'null::float8'), source,
    words_sql is not null and meaning_sql is not null, method, wanted)
  using depth, words.all_weight, words.all_terms, words_weight, meaning_weight, vectors;
end;
$$;
comment on function embedding.search_hits(regclass, text, extensions.vector, int, jsonb, float8, float8, text, jsonb, text) is
  'The hits of a search over any tracked table, best first, at most 200. score = full_text_weight * full_text_score + '
  'semantic_weight * semantic_score, where full_text_score = bm25 / highest bm25 * full_text_trust and semantic_score = '
  '(cosine + 1) / (highest cosine + 1); with fusion rrf both are 1 / (60 + rank). Runs as the caller.';

revoke all on function
  embedding.check_weight(text,double precision),
  embedding.query_vectors(text,text,extensions.vector,text,jsonb),
  embedding.search_hits(regclass,text,extensions.vector,integer,jsonb,double precision,double precision,text,jsonb,text)
from public, anon, authenticated, service_role;
grant execute on function
  embedding.check_weight(text,double precision),
  embedding.query_vectors(text,text,extensions.vector,text,jsonb),
  embedding.search_hits(regclass,text,extensions.vector,integer,jsonb,double precision,double precision,text,jsonb,text)
to anon, authenticated, service_role;
