-- Search: BM25 over words, cosine over meaning, one ranked list whose scores add up. Works on any tracked table.
--
-- Why plain SQL: `websearch_to_tsquery` ANDs every word, so a real question finds nothing, and ts_rank knows no rarity.
-- Here the words of a query are OR-ed and weighed by how rare they are (BM25), with no extension beyond pgvector.
--
-- * Rarity comes from the planner's own statistics (ANALYZE keeps them; an insert pays nothing). A word that is not among
--   the most common ones is counted in the index, which is cheap because it is rare.
-- * Under row level security a score must not tell of rows that the caller may not see. The statistics cover every row, so
--   they are used only for a caller who sees every row; for any other, and before the first ANALYZE, the same numbers
--   are taken from rows that the caller sees.
-- * Rows are gathered from the rarest words onwards within a budget, so a common word costs no more than a rare one.
-- * A row found by one leg is scored by both: fusion compares whole scores, not who was listed where.

-- Only a session that has used pgvector may name its settings below.
select '[0]'::extensions.vector is not null;

create function embedding.describe_collection(source regclass)
returns table (name text, key_column name, key_type text, model text, dimensions int, text_config regconfig)
language sql
stable
security definer
set search_path = ''
as $$
  select c.name, c.key_column, format_type(a.atttypid, a.atttypmod), c.model, m.dimensions, c.text_config
  from embedding.collections c
  join pg_catalog.pg_attribute a on a.attrelid = c.source and a.attname = c.key_column
  left join embedding.models m on m.name = c.model
  where c.source = describe_collection.source;
$$;
comment on function embedding.describe_collection(regclass) is
  'What a search must know of a tracked table. Security definer: callers of a search may not read embedding.collections.';
revoke all on function embedding.describe_collection(regclass) from public;
grant execute on function embedding.describe_collection(regclass) to anon, authenticated, service_role;


create function embedding.model_dimensions(model text)
returns int
language sql
stable
security definer
set search_path = ''
as $$
  select m.dimensions from embedding.models m where m.name = model_dimensions.model;
$$;
comment on function embedding.model_dimensions(text) is
  'The width of a registered model, NULL for an unknown one.';
revoke all on function embedding.model_dimensions(text) from public;
grant execute on function embedding.model_dimensions(text) to anon, authenticated, service_role;


create function embedding.sees_every_row(source regclass, caller name)
returns boolean
language sql
stable
security invoker
set search_path = ''
as $$
  select has_table_privilege(r.oid, t.oid, 'select') and (
    not t.relrowsecurity
    or r.rolsuper or r.rolbypassrls
    or (not t.relforcerowsecurity and pg_has_role(r.oid, t.relowner, 'usage'))
    or (
      exists (
        select from pg_catalog.pg_policy p
        where p.polrelid = t.oid and p.polpermissive and p.polcmd in ('r', '*')
          and pg_get_expr(p.polqual, p.polrelid) = 'true'
          and exists (select from unnest(p.polroles) member
                      where member = 0 or pg_has_role(r.oid, member, 'usage')))
      and not exists (
        select from pg_catalog.pg_policy p
        where p.polrelid = t.oid and not p.polpermissive and p.polcmd in ('r', '*'))))
  from pg_catalog.pg_class t, pg_catalog.pg_roles r
  where t.oid = sees_every_row.source and r.rolname = sees_every_row.caller;
$$;
comment on function embedding.sees_every_row(regclass, name) is
  'Whether no policy hides a row of the table from the role: row level security is off for it, or a policy `using (true)` '
  'lets it read and no restrictive policy takes rows away. Any doubt is a no.';
revoke all on function embedding.sees_every_row(regclass, name) from public;
grant execute on function embedding.sees_every_row(regclass, name) to anon, authenticated, service_role;


create function embedding.lexeme_statistics(source regclass, lexemes text[])
returns table (total_rows float8, average_length float8, frequencies float8[])
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  -- The role that asked. Within a definer function current_user is the owner; the setting still names the caller.
  caller name := case current_setting('role') when 'none' then session_user
                 else current_setting('role') end;
  -- Two things for arrays of thousands: a list in a text is split three times quicker than an array literal is parsed, and
  -- pgvector's sum of differences adds them up fifty times quicker than sum() does. No lexeme holds the separator: the parser
  -- of texts takes it for white space.
  separator constant text := chr(1);
  widest_vector constant int := 16000;
  common text[];
  shares real[];
  share_vector extensions.vector;
begin
  if not coalesce(embedding.sees_every_row(source, caller), false) then
    return;
  end if;
  select string_to_array(array_to_string(s.most_common_elems, separator), separator), s.most_common_elem_freqs
  into common, shares
  from pg_catalog.pg_class t
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  join pg_catalog.pg_stats s on s.schemaname = n.nspname and s.tablename = t.relname and s.attname = 'fts' and not s.inherited
  where t.oid = source;
  if common is null then
    return;
  end if;
  -- The array ends with the least and the greatest share.
  shares := shares[1:cardinality(common)];
  if cardinality(common) <= widest_vector then
    share_vector := shares::extensions.vector;
  end if;
  return query
  select
    -- Rows per page as of the last ANALYZE, times the pages of today: does not drift while the table grows.
    t.reltuples::float8 / greatest(t.relpages, 1) * (pg_relation_size(t.oid) / current_setting('block_size')::int),
    -- The expected number of distinct lexemes of a row.
    coalesce(extensions.l1_distance(share_vector, share_vector operator(extensions.-) share_vector),
             (select sum(share)::float8 from unnest(shares) share)),
    case when cardinality(lexemes) <= 24 then
      array(select shares[array_position(common, wanted.lexeme)]::float8
            from unnest(lexemes) with ordinality wanted (lexeme, place) order by wanted.place)
    else
      array(select known.share::float8
            from unnest(lexemes) with ordinality wanted (lexeme, place)
            left join unnest(common, shares) known (lexeme, share) on known.lexeme = wanted.lexeme
            order by wanted.place)
    end
  from pg_catalog.pg_class t
  where t.oid = source and t.reltuples > 0;
end;
$$;
comment on function embedding.lexeme_statistics(regclass, text[]) is
  'The planner''s knowledge of a table''s words: rows, distinct lexemes a row, and the share of rows that hold each given '
  'lexeme (NULL: not among the most common). Security definer, as pg_stats hides rows from callers under row level '
  'security; answers nothing unless the caller sees every row of the table, so it tells no more than a SELECT would.';
revoke all on function embedding.lexeme_statistics(regclass, text[]) from public;
grant execute on function embedding.lexeme_statistics(regclass, text[]) to anon, authenticated, service_role;


create function embedding.query_terms(source regclass, query_text text, text_config regconfig)
returns table (terms text[], weights float8[], counts float8[], average_length float8, all_terms int, all_weight float8)
language plpgsql
stable
security invoker
set search_path = ''
set jit = off
set max_parallel_workers_per_gather = 0
as $$
declare
  longest_text constant int := 24000;    -- characters read: 3,000 words and more, far below the limits of a tsvector
  most_lexemes constant int := 256;      -- lexemes looked up
  most_terms constant int := 64;         -- lexemes scored, the rarest ones
  sample_rows constant int := 1000;      -- rows looked at when there are no statistics to use
  counted_rows constant int := 2000;     -- rows looked at to count the rare lexemes
  lexemes text[];
  quoted text[];
  total float8;
  mean_length float8;
  shares float8[];                       -- of the rows, by lexeme; NULL: rare, to be counted
  most_share float8 := 1;                -- what a counted lexeme's share can be at most
  hits int[];
begin
  lexemes := tsvector_to_array(to_tsvector(text_config, left(query_text, longest_text)));
  if coalesce(cardinality(lexemes), 0) = 0 then
    return;
  end if;

  select s.total_rows, s.average_length, s.frequencies into total, mean_length, shares
  from embedding.lexeme_statistics(source, lexemes) s;
  if cardinality(lexemes) > most_lexemes then
    select array_agg(l.lexeme), case when shares is not null then array_agg(l.share) end into lexemes, shares
    from (select u.lexeme, u.share from unnest(lexemes, shares) u (lexeme, share)
          order by u.share nulls first, length(u.lexeme) desc, u.lexeme limit most_lexemes) l;
  end if;
  -- A one-lexeme tsvector prints with the quoting that the tsquery parser reads back: nothing in it can act as an operator.
  quoted := array(select array_to_tsvector(array[l.lexeme])::text from unnest(lexemes) with ordinality l (lexeme, place) order by l.place);

  if shares is null then
    execute format(
      'with sample as materialized (select s.fts || '''' as fts from %s s where s.fts is not null limit %s)
       select count(*), avg(length(sample.fts)),
              array(select (select count(*) from sample where sample.fts @@ l.term) from unnest($1) with ordinality l (term, place) order by l.place)
       from sample', source, sample_rows)
    into total, mean_length, hits using quoted::tsquery[];
    if total < sample_rows then
      shares := array(select h / greatest(total, 1) from unnest(hits) with ordinality h (h, place) order by h.place);
    else
      shares := array(select case when h.h >= 10 then h.h / total end from unnest(hits) with ordinality h (h, place) order by h.place);
      most_share := 10 / total;
      -- How many rows the caller sees is not known; the count stops where more would hardly change how words compare.
      execute format('select count(*) from (select from %s limit %s) s', source, 20 * sample_rows) into total;
    end if;
  end if;

  -- Rare lexemes are counted in rows that the caller sees, all in one scan.
  if array_position(shares, null) is not null then
    execute format(
      'with held as materialized (
         select s.fts || '''' as fts from %s s where s.fts @@ %L::tsquery limit %s
       )
       select array_agg(coalesce(l.share, least((select count(*) from held where held.fts @@ l.term) / $3, $4)) order by l.place)
       from unnest($1, $2) with ordinality l (term, share, place)',
      source,
      (select string_agg(l.term, ' | ') from unnest(quoted, shares) l (term, share) where l.share is null),
      counted_rows)
    into shares using quoted::tsquery[], shares, greatest(total, 1), most_share;
  end if;

  return query
  with term as (
    select l.term, l.share * total as n, ln(1 + (total - l.share * total + 0.5) / (l.share * total + 0.5)) as idf
    from unnest(quoted, shares) l (term, share)
  ), ranked as (
    select t.term, t.n, t.idf, row_number() over (order by t.n = 0, t.n, t.term) as place from term t
  )
  select array_agg(r.term order by r.place) filter (where r.n > 0),
         array_agg(r.idf order by r.place) filter (where r.n > 0),
         array_agg(r.n order by r.place) filter (where r.n > 0),
         greatest(mean_length, 1), count(*)::int, sum(r.idf)
  from ranked r
  where r.place <= most_terms;
end;
$$;
comment on function embedding.query_terms(regclass, text, regconfig) is
  'The words of a query as the table knows them, rarest first: lexeme (quoted as a tsquery), BM25 weight (idf) and rows of each '
  'that occurs; the mean length of a row; number and summed weight of all lexemes, also of those that occur nowhere.';
revoke all on function embedding.query_terms(regclass, text, regconfig) from public;
grant execute on function embedding.query_terms(regclass, text, regconfig) to anon, authenticated, service_role;


create function embedding.bm25_expression(terms text[], weights float8[])
returns text
language sql
immutable
security invoker
set search_path = ''
as $$
  -- tf * (k1 + 1) / (tf + k) is 2.2 * (1 - k / (k + tf)). ts_rank of one lexeme is (1 + 1/4 + ... + 1/tf^2) / 1.645, found without
  -- unpacking the row's other lexemes; its distance to 1 gives tf back, exactly. Three times quicker than unnest(fts).
  select string_agg(
    format('%s * (1 - d.k / (d.k + round(1 / (1.64493406685 * (1 - ts_rank(''{1,1,1,1}'', d.fts, %L::tsquery))) - 0.5)))',
      2.2 * t.weight, t.term), ' + ')
  from unnest(terms, weights) t (term, weight);
$$;
comment on function embedding.bm25_expression(text[], float8[]) is
  'SQL for the BM25 score (k1 = 1.2, b = 0.75) of d.fts, with d.k = k1 * (1 - b + b * length / mean length).';
revoke all on function embedding.bm25_expression(text[], float8[]) from public;
grant execute on function embedding.bm25_expression(text[], float8[]) to anon, authenticated, service_role;


create function embedding.filter_condition(source regclass, filter jsonb)
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  field record;
  condition text := '';
begin
  if filter is null or jsonb_typeof(filter) = 'null' then
    return '';
  elsif jsonb_typeof(filter) <> 'object' then
    raise exception 'filter must be an object of column names and values, not %', jsonb_typeof(filter)
      using errcode = '22023';
  end if;
  for field in select f.key as name, f.value #>> '{}' as wanted from jsonb_each(filter) f order by f.key loop
    if not exists (select from pg_catalog.pg_attribute a
                   where a.attrelid = source and a.attname = field.name and a.attnum > 0 and not a.attisdropped) then
      raise exception 'filter names the column "%", which % does not have', field.name, source
        using errcode = '42703';
    end if;
    if field.wanted is not null then
      condition := condition || format(' and s.%I = %L', field.name, field.wanted);
    end if;
  end loop;
  return condition;
end;
$$;
comment on function embedding.filter_condition(regclass, jsonb) is
  'The SQL for {column: value}, all of which must be equal; NULL filters nothing. Quoted, and only columns of the table.';
revoke all on function embedding.filter_condition(regclass, jsonb) from public;
grant execute on function embedding.filter_condition(regclass, jsonb) to anon, authenticated, service_role;


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
set search_path = ''
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
revoke all on function embedding.query_vectors(text, text, extensions.vector, text, jsonb) from public;
grant execute on function embedding.query_vectors(text, text, extensions.vector, text, jsonb) to anon, authenticated, service_role;


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
set search_path = ''
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
  words_weight constant float8 := coalesce(full_text_weight, 0.3);
  meaning_weight constant float8 := coalesce(semantic_weight, 0.7);
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
             case when %9$L then least(1, p.held / 10) * (p.held / $2) ^ (3.0 / $3) else 1 end as trust,
             p.cosine, p.by_meaning, (p.cosine + 1) / nullif(b.cosine + 1, 0) as meaning_share
      from part p
      left join best b on b.model = p.model
    ),
    ranked as (
      select r.*,
             case when r.bm25 is not null then row_number() over (order by r.bm25 desc nulls last, r.key) end as words_rank,
             case when r.by_meaning then row_number() over (order by r.by_meaning desc, r.meaning_share desc nulls last, r.key) end as meaning_rank
      from scaled r
    ),
    fused as (
      select r.*,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.words_rank) else r.words_share * r.trust end, 0)::float8 as words_score,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.meaning_rank) else r.meaning_share end, 0)::float8 as meaning_score
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
revoke all on function embedding.search_hits(regclass, text, extensions.vector, int, jsonb, float8, float8, text, jsonb, text) from public;
grant execute on function embedding.search_hits(regclass, text, extensions.vector, int, jsonb, float8, float8, text, jsonb, text)
  to anon, authenticated, service_role;
