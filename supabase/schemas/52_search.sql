-- The search functions that all collections share. search_hits searches any tracked table and runs as the caller. It builds
-- one statement from two lists of candidates, full-text (BM25) and semantic (cosine), and then scores each candidate by both.

create function embedding.check_weight(argument text, weight double precision)
returns double precision language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  -- NaN and infinite weights are refused: a score of NaN cannot be ordered, and infinity times 0 is NaN.
  if abs(weight) < 'infinity' then
    return weight;
  end if;
  raise exception '% must be a finite number, not %', argument, coalesce(weight::text, '<null>') using errcode = '22023';
end;
$$;
comment on function embedding.check_weight is 'Returns the weight. Raises an error that names the argument if the weight is NaN, infinite or NULL.';
revoke all on function embedding.check_weight from public, anon, authenticated, service_role;
grant execute on function embedding.check_weight to anon, authenticated, service_role;

create function embedding.query_vectors(
  collection_name text, collection_model text, query_embedding extensions.vector, embedding_model text, query_embeddings jsonb
)
returns table (model text, dimensions int, vector extensions.vector)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  given record;
begin
  if jsonb_typeof(query_embeddings) not in ('object', 'null') then
    raise exception 'query_embeddings must be an object of models and vectors, not %', jsonb_typeof(query_embeddings)
      using errcode = '22023';
  elsif pg_column_size(query_embeddings) > 4194304 then
    raise exception 'query_embeddings must have at most 4 MB' using errcode = '22023';
  end if;
  for given in
    select e.key as model, e.value #>> '{}' as written, null::extensions.vector as vector, format('query_embeddings[%s]', e.key) as argument
    from jsonb_each(case when jsonb_typeof(query_embeddings) = 'object' then query_embeddings end) e
    where jsonb_typeof(e.value) <> 'null'
    union all
    select coalesce(embedding_model, collection_model), null, query_embedding, 'query_embedding'
    where query_embedding is not null and coalesce(embedding_model, collection_model) is not null
      and not coalesce(query_embeddings ? coalesce(embedding_model, collection_model), false)
    order by 1
  loop
    model := given.model;
    dimensions := embedding.model_dimensions(given.model);
    -- The name is checked before the vector is read, because reading a vector takes longer.
    if dimensions is null then
      raise exception 'model "%" is not registered', left(given.model, 100) using errcode = '22023';
    end if;
    vector := coalesce(given.vector, given.written::extensions.vector);
    if extensions.vector_dims(vector) <> dimensions then
      raise exception '% has % dimensions, but model "%" of collection "%" has %',
        given.argument, extensions.vector_dims(vector), given.model, collection_name, dimensions
        using errcode = '22023', hint = 'Embed the query with the model that embedded the rows.';
    elsif extensions.vector_norm(vector) = 0 then
      raise exception '% is a zero vector, which has no direction', given.argument using errcode = '22023';
    end if;
    -- The length of a vector does not change its cosine. But the numbers of a very long vector are too large for half
    -- precision, and the square of a very short one is 0 in single precision.
    vector := extensions.l2_normalize(vector);
    return next;
  end loop;
end;
$$;
comment on function embedding.query_vectors is
  'The normalised vector of the query for each model. Raises an error if a model is not registered or a vector does not '
  'have the dimensions of its model.';
revoke all on function embedding.query_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.query_vectors to anon, authenticated, service_role;

create function embedding.held_model(source regclass, collection_name text)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  held text[];
begin
  execute format(
    'select array_agg(m.name order by m.name) from (select distinct s.embedding_model as name from %s s where s.embedding is not null limit 3) m',
    source) into held;
  if cardinality(held) > 1 then
    raise exception 'collection "%" has no model yet, and its rows hold vectors of several models: %', collection_name,
      array_to_string(held, ', ')
      using errcode = '22023', hint = 'Name the model of the query: embedding_model => ''...''.';
  end if;
  return held[1];
end;
$$;
comment on function embedding.held_model is
  'The model of the vectors in a table, for a collection without a model. Raises an error if there are several.';
revoke all on function embedding.held_model from public, anon, authenticated, service_role;
grant execute on function embedding.held_model to anon, authenticated, service_role;

create function embedding.full_text_candidates(
  source regclass, collection record, query_text text, condition text, depth int, out candidates_sql text, out bm25_sql text,
  out matched_weight_sql text, out k_sql text, out total_weight float8, out total_terms int
)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  row_budget constant int := 600;        -- rows that are scored by BM25
  query record;
  rare int;                              -- how many of the rarest terms fit into the budget with all their rows
  rare_rows float8;
  rare_query text;
  pair_query text;
  few_only constant text := format(' and (select count(*) from first) < %s', depth);
  first_sql text;
  other_sql text;
begin
  select t.* into query from embedding.query_terms(source, query_text, collection.text_config) t;
  if coalesce(cardinality(query.terms), 0) = 0 then
    candidates_sql := null;
    bm25_sql := 'null::float8';
    matched_weight_sql := 'null::float8';
    k_sql := 'null::float8';
    return;
  end if;
  total_weight := query.total_weight;
  total_terms := query.total_terms;

  -- Take rows that contain one of the rarest terms, then rows that contain two of the other terms, until the budget is used
  -- up. Rows with a single common term are added only if there are fewer than depth rows. Each tsquery is a literal, so that
  -- the planner uses the frequency of its lexemes.
  select count(*), max(c.so_far) into rare, rare_rows
  from (select sum(c.n) over (order by c.place) as so_far from unnest(query.counts) with ordinality c (n, place)) c
  where c.so_far <= row_budget;
  rare_query := nullif(array_to_string(query.terms[1:rare], ' | '), '');
  pair_query := query.terms[rare + 1] || ' & (' || nullif(array_to_string(query.terms[rare + 2:], ' | '), '') || ')';
  select
    string_agg(part.rows_sql, ' union all ' order by part.place) filter (where part.place < 3),
    string_agg(' union all ' || part.rows_sql, '' order by part.place) filter (where part.place > 2)
  into first_sql, other_sql
  from (
    select a.place, format('(select s.%I as key, s.fts from %s s where s.fts @@ %L::tsquery%s%s%s limit %s)', collection.key_column, source,
      a.query,
      -- This leaves out the rows of the earlier parts. It is a CASE, because for a plain condition the planner would read the
      -- statistics of thousands of lexemes again.
      ' and case when s.fts @@ ' || quote_literal(nullif(a.seen, '')) || '::tsquery then false else true end', condition, a.guard, row_budget) as rows_sql
    from (values
      (1, rare_query, '', ''),
      (2, pair_query, rare_query, ''),
      (3, query.terms[rare + 1], concat_ws(' | ', rare_query, '(' || pair_query || ')'), few_only),
      (4, nullif(array_to_string(query.terms[rare + 2:], ' | '), ''),
        concat_ws(' | ', rare_query, query.terms[rare + 1]), few_only)
    ) a (place, query, seen, guard)
    where a.query is not null
      -- Skip a part with a guard if the rarest terms alone have enough rows, because to plan the part takes time.
      and (a.guard = '' or condition <> '' or rare_rows is null or rare_rows < depth)
  ) part;

  bm25_sql := embedding.bm25_expression(query.terms, query.weights);
  select string_agg(format('case when d.fts @@ %L::tsquery then %s else 0 end', t.term, t.weight), ' + ') into matched_weight_sql
  from unnest(query.terms, query.weights) t (term, weight);
  k_sql := format('1.2 * (0.25 + 0.75 * length(s.fts) / %s)', query.average_length);
  -- fts || '' decompresses a stored tsvector once, instead of once for each term.
  candidates_sql := format(
    'with first as materialized (select f.* from (%s) f limit %s)
       select d.key, %s as bm25
       from (select s.key, s.fts, %s as k from (select a.key, a.fts || '''' as fts from (select * from first%s) a limit %s) s offset 0) d
       order by bm25 desc, d.key limit %s',
    coalesce(first_sql, format('select s.%I as key, s.fts from %s s where false', collection.key_column, source)), row_budget,
    bm25_sql, k_sql, other_sql, row_budget, depth);
end;
$$;
comment on function embedding.full_text_candidates is
  'SQL for the full-text candidates of a search. candidates_sql lists key and bm25 of the best rows, at most depth; it is null if no term '
  'occurs in the table. For any row d, bm25_sql is its BM25 score, matched_weight_sql the sum of the weights of the terms that it '
  'contains, and k_sql the k of bm25_expression. total_weight and total_terms are those of the query.';
revoke all on function embedding.full_text_candidates from public, anon, authenticated, service_role;
grant execute on function embedding.full_text_candidates to anon, authenticated, service_role;

create function embedding.semantic_candidates(
  source regclass, collection record, query_embedding extensions.vector, embedding_model text, query_embeddings jsonb,
  condition text, depth int, out candidates_sql text, out cosine_sql text, out vectors extensions.vector[]
)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  -- A table that was tracked before may contain vectors of earlier texts, until a backfill has compared them.
  checked constant text := case when collection.vectors_unchecked then
    format(' and s.%I <= %L::%s', collection.key_column, collection.prepared_to, collection.key_type) else '' end;
begin
  -- Each model ranks the rows that it embedded. The index is used because ORDER BY and WHERE repeat its expression and condition.
  select
    string_agg(format(
      '(select s.%1$I as key from %2$s s where s.embedding_model = %3$L%4$s
          order by s.embedding::extensions.halfvec(%5$s) operator(extensions.<=>) $1[%6$s]::extensions.halfvec(%5$s) limit %7$s)',
      collection.key_column, source, v.model, condition || checked, v.dimensions, v.place, depth), ' union all '),
    coalesce('case' || string_agg(format(
      ' when s.embedding_model = %L%s then nullif(1 - (s.embedding operator(extensions.<=>) $1[%s]), ''NaN'')',
      v.model, checked, v.place), '') || ' end', 'null::float8'),
    array_agg(v.vector order by v.place)
  into candidates_sql, cosine_sql, vectors
  from embedding.query_vectors(
    collection.name,
    case when collection.model is null and query_embedding is not null and embedding_model is null
      then embedding.held_model(source, collection.name) else collection.model end,
    query_embedding, embedding_model, query_embeddings)
    with ordinality v (model, dimensions, vector, place);
end;
$$;
comment on function embedding.semantic_candidates is
  'SQL for the semantic candidates of a search. candidates_sql lists the keys of the nearest rows of each model, at most depth; it is null '
  'if there is no vector of the query. cosine_sql is the cosine of any row s. In both, $1 is the argument vectors.';
revoke all on function embedding.semantic_candidates from public, anon, authenticated, service_role;
grant execute on function embedding.semantic_candidates to anon, authenticated, service_role;

create function embedding.fusion_statement(
  source regclass, key_column name, full_text record, semantic record, fusion text, match_count int
)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return format(
    $sql$
    with full_text as materialized (%1$s),
    semantic as materialized (%2$s),
    -- This is materialized, so that the join below compares plain columns. Under row level security, a join on an expression
    -- that could leak values cannot use the primary key, and the planner would read every visible row.
    found as materialized (
      select coalesce(t.key, v.key) as key, t.bm25, v.key is not null as is_semantic
      from full_text t
      full join semantic v on v.key = t.key
    ),
    candidate as (
      -- Each row that is in one of the lists, with both of its scores.
      select d.key, d.model, coalesce(d.bm25, %3$s) as bm25, %4$s as matched_weight, d.cosine, d.is_semantic
      from (
        select s.%5$I as key, s.embedding_model as model, s.fts || '' as fts, %6$s as k, f.bm25, %7$s as cosine, f.is_semantic
        from found f
        join %8$s s on s.%5$I = f.key
        offset 0
      ) d
    ),
    best as (
      -- Cosines of different models cannot be compared. So the cosines of a model are divided by that of its own best row. If
      -- a model has few rows here, the best row of all models is used in part.
      select b.model, (b.rows * b.cosine + ($2 - b.rows) * max(b.cosine) over ()) / $2 as cosine
      from (select c.model, least(count(*), $2) as rows, max(c.cosine) as cosine from candidate c where c.is_semantic group by c.model) b
    ),
    scaled as (
      select c.key, nullif(c.bm25, 0) as bm25, c.bm25 / nullif(max(c.bm25) over (), 0) as full_text_share,
             case when %9$L then least(1, c.matched_weight / 8) * (c.matched_weight / $3) ^ (5.0 / $4) else 1 end as full_text_trust,
             c.cosine, c.is_semantic, (c.cosine + 1) / nullif(b.cosine + 1, 0) as semantic_share
      from candidate c
      left join best b on b.model = c.model
    ),
    estimated as (
      -- A row without a vector of these models gets an estimated semantic share. It is between the lowest and the highest
      -- share of the semantic candidates, and rises with the full-text score. Otherwise a new row would not be found until it
      -- is embedded.
      select s.*, coalesce(s.semantic_share, m.lowest + (1 - m.lowest) * s.full_text_share * s.full_text_trust) as semantic_estimate
      from scaled s
      cross join (select min(x.semantic_share) as lowest from scaled x where x.is_semantic) m
    ),
    ranked as (
      select r.*,
             case when r.bm25 is not null then row_number() over (order by r.bm25 desc nulls last, r.key) end as full_text_rank,
             case when r.is_semantic then row_number() over (order by r.is_semantic desc, r.semantic_share desc nulls last, r.key) end as semantic_rank
      from estimated r
    ),
    fused as (
      select r.*,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.full_text_rank) else r.full_text_share * r.full_text_trust end, 0)::float8 as full_text_score,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.semantic_rank) else r.semantic_estimate end, 0)::float8 as semantic_score
      from ranked r
    )
    select f.key::text, $5 * f.full_text_score + $6 * f.semantic_score, f.full_text_score, f.full_text_rank::int, f.semantic_score, f.semantic_rank::int,
           f.bm25, case when f.bm25 is not null then f.full_text_trust end::float8, f.cosine
    from fused f
    order by 2 desc, f.key
    limit %11$s
    $sql$,
    coalesce(full_text.candidates_sql, format('select s.%I as key, null::float8 as bm25 from %s s where false', key_column, source)),
    coalesce(semantic.candidates_sql, format('select s.%I as key from %s s where false', key_column, source)),
    full_text.bm25_sql, full_text.matched_weight_sql, key_column, full_text.k_sql, semantic.cosine_sql, source,
    full_text.candidates_sql is not null and semantic.candidates_sql is not null, fusion, match_count);
end;
$$;
comment on function embedding.fusion_statement is
  'The statement of a search, from the results of full_text_candidates and semantic_candidates. If there are semantic scores, full_text_trust lowers the '
  'full-text score of a row that contains few terms of the query, or only common ones. '
  'Parameters: $1 vectors, $2 depth, $3 total_weight, $4 total_terms, $5 full_text_weight, $6 semantic_weight.';
revoke all on function embedding.fusion_statement from public, anon, authenticated, service_role;
grant execute on function embedding.fusion_statement to anon, authenticated, service_role;

create function embedding.search_hits(
  source regclass, query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter jsonb default null, full_text_weight float8 default 0.3, semantic_weight float8 default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted'
)
returns table (
  row_id text, score float8, full_text_score float8, full_text_rank int, semantic_score float8, semantic_rank int, bm25 float8,
  full_text_trust float8, cosine float8
)
language plpgsql stable security invoker rows 10
set search_path = pg_catalog, pg_temp set jit = off set max_parallel_workers_per_gather = 0
as $$
declare
  hit_count constant int := least(greatest(coalesce(match_count, 10), 1), 200);
  depth constant int := greatest(hit_count, 100);        -- candidates of each list
  full_text_factor constant float8 := embedding.check_weight('full_text_weight', coalesce(full_text_weight, 0.3));
  semantic_factor constant float8 := embedding.check_weight('semantic_weight', coalesce(semantic_weight, 0.7));
  method constant text := coalesce(fusion, 'weighted');
  condition text;
  collection record;
  full_text record;
  semantic record;
  previous text[];                                       -- the caller's settings of pgvector
begin
  select c.* into collection from embedding.describe_collection(source) c;
  if not found then
    raise exception '% is not tracked', source
      using errcode = '42704', hint = 'Track it first: select track_embeddings(''...'').';
  end if;
  if method not in ('weighted', 'rrf') then
    raise exception 'fusion must be weighted or rrf, not "%"', left(method, 100) using errcode = '22023';
  end if;
  condition := embedding.filter_condition(source, filter);
  -- If the weight of a list is 0, the list stays empty.
  full_text := embedding.full_text_candidates(
    source, collection, case when full_text_factor <> 0 then query_text end, condition, depth);
  semantic := embedding.semantic_candidates(
    source, collection, case when semantic_factor <> 0 then query_embedding end, embedding_model,
    case when semantic_factor <> 0 then query_embeddings end, condition, depth);
  if full_text.candidates_sql is null and semantic.candidates_sql is null then
    return;
  end if;
  if semantic.candidates_sql is not null then
    -- These settings make an index scan continue until enough rows pass the filter. They are not a SET clause of the function,
    -- because only a superuser could then create the function, or restore it from a dump, in a session that has not loaded
    -- pgvector. So they are changed here and set back below. After an error PostgreSQL sets them back.
    previous := array[current_setting('hnsw.iterative_scan'), current_setting('hnsw.ef_search'), current_setting('hnsw.max_scan_tuples')];
    perform set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '200', true),
      set_config('hnsw.max_scan_tuples', '40000', true);
  end if;
  return query execute embedding.fusion_statement(source, collection.key_column, full_text, semantic, method, hit_count)
  using semantic.vectors, depth, full_text.total_weight, full_text.total_terms, full_text_factor, semantic_factor;
  if semantic.candidates_sql is not null then
    perform set_config('hnsw.iterative_scan', previous[1], true), set_config('hnsw.ef_search', previous[2], true),
      set_config('hnsw.max_scan_tuples', previous[3], true);
  end if;
end;
$$;
comment on function embedding.search_hits is
  'The hits of a search over any tracked table, best first, at most 200. score = full_text_weight * full_text_score + '
  'semantic_weight * semantic_score, where full_text_score = bm25 / highest bm25 * full_text_trust and semantic_score = '
  '(cosine + 1) / (highest cosine + 1); with fusion rrf both are 1 / (60 + rank). Runs as the caller.';
revoke all on function embedding.search_hits from public, anon, authenticated, service_role;
grant execute on function embedding.search_hits to anon, authenticated, service_role;
