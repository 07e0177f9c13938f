-- The rows of a large table are counted on a sample of its blocks, and texts are read from the sample. So this takes as long
-- with a hundred million rows as with a million. The queue is counted completely: pending rows are usually few and lie side
-- by side, so a sample of blocks would miss them or find too many. The sample only adds pending rows that are not queued.
create function embedding.is_large(source regclass)
returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  -- A row with a vector of 384 dimensions takes 2 kB. With 1,536 dimensions it takes 7 kB, most of it in the TOAST table.
  select pg_relation_size(source) > 32 * 1024 * 1024 or pg_table_size(source) > 128 * 1024 * 1024
$$;
comment on function embedding.is_large is 'Whether the rows of a table are counted on a sample.';
revoke all on function embedding.is_large from public, anon, authenticated, service_role;
grant execute on function embedding.is_large to service_role;

create function embedding.sampled_percent(source regclass)
returns float8 language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when embedding.is_large(source)
    then least(100, 100.0 * 2000 * current_setting('block_size')::integer / pg_relation_size(source)) else 100 end
$$;
comment on function embedding.sampled_percent is
  'The share of a table''s blocks that a sample reads, in percent: 2,000 blocks of a large table, else all of them.';
revoke all on function embedding.sampled_percent from public, anon, authenticated, service_role;
grant execute on function embedding.sampled_percent to service_role;

create function embedding.sample_vectors(c embedding.tracked_tables, out rows bigint, out embedded bigint, out models jsonb)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  percent constant float8 := embedding.sampled_percent(c.source);
  known constant float8 := (select r.reltuples from pg_class r where r.oid = c.source);
  sampled record;
  total float8;
begin
  -- `repeatable` reads the same blocks each time, so that the numbers of an unchanged table do not change.
  execute format($sql$
    select coalesce(sum(h.rows), 0)::float8 as rows, jsonb_object_agg(h.model, h.rows) filter (where h.model is not null) as models
    from (
      select case when s.embedding is not null then coalesce(s.embedding_model, '') end as model, count(*) as rows
      from %s s tablesample system (%s) repeatable (1)
      group by 1
    ) h
  $sql$, c.source, percent) into sampled;
  total := sampled.rows * 100 / percent;
  if percent < 100 and abs(known - total) <= total / 10 then
    -- Use the count of the last ANALYZE or VACUUM if the sample agrees with it, because that count is more exact.
    total := known;
  end if;
  rows := round(total);
  select coalesce(jsonb_object_agg(m.key, round(m.value::float8 * total / sampled.rows)::bigint), '{}') into models
  from jsonb_each_text(sampled.models) m;
  select coalesce(sum(m.value::bigint), 0) into embedded from jsonb_each_text(models) m where c.model is null or m.key = any (c.kept_models);
end;
$$;
comment on function embedding.sample_vectors is
  'Estimates how many rows a table has, how many of them have a vector that is kept, and how many vectors each model has. The numbers are exact if the table is not large.';
revoke all on function embedding.sample_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.sample_vectors to service_role;

create function embedding.sampled_texts(c embedding.tracked_tables, rows bigint)
returns integer language sql stable set search_path = pg_catalog, pg_temp as $$
  select least(20000, greatest(1000, 64 * 1024 * 1024 / greatest(pg_table_size(c.source) / greatest(rows, 1), 1)))::integer
$$;
comment on function embedding.sampled_texts is
  'How many texts a sample reads: 20,000, or fewer if the texts are long, but at least 1,000. rows is the number of rows of the table.';
revoke all on function embedding.sampled_texts from public, anon, authenticated, service_role;
grant execute on function embedding.sampled_texts to service_role;

create function embedding.sample_unqueued(
  c embedding.tracked_tables, kept_models text[], needy bigint, out rows bigint, out places jsonb, wanted integer default 10000
)
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  percent constant float8 := least(embedding.sampled_percent(c.source), 150.0 * wanted / greatest(needy, 1));
  sampled record;
  texts bigint;
begin
  rows := 0;
  -- Read whole blocks in a random order; embedding.distinct_texts explains why.
  execute format($sql$
    select array_agg(k.key) as keys, array_agg(k.block) as blocks
    from (
      select s.%1$I::text as key, (s.ctid::text::point)[0]::bigint as block
      from %2$s s tablesample system (%3$s) repeatable (1)
      where s.embedding is null or s.embedding_model <> all ($1)
      order by hashint8((s.ctid::text::point)[0]::bigint), 2
      limit $2
    ) k
  $sql$, c.key_column, c.source, percent)
  into sampled using kept_models, wanted;
  select coalesce(jsonb_object_agg(k.key, k.block), '{}') into places
  from unnest(sampled.keys, sampled.blocks) k (key, block)
  where k.key not in (select q.row_id from embedding.queue q where q.collection_id = c.id and q.row_id = any (sampled.keys));
  if places <> '{}' then
    select r.texts into texts
    from embedding.read_table(c, $sql$
      select count(*)
      from jsonb_object_keys($2) k (key)
      join %2$s s on s.%1$I = k.key::%4$s
      cross join lateral %3$s t
      where t.text is not null or t.error is not null
    $sql$, places, array[c.key_type]) r (texts bigint);
    rows := round(needy::float8 * texts / cardinality(sampled.keys));
  end if;
end;
$$;
comment on function embedding.sample_unqueued is
  'Estimates how many rows have a text and are not in the queue, among the `needy` rows: those without a vector of these models. places are the rows that are not in the queue among up to `wanted` sampled rows, as {key: block}.';
revoke all on function embedding.sample_unqueued from public, anon, authenticated, service_role;
grant execute on function embedding.sample_unqueued to service_role;

create function embedding.sample_queue(c embedding.tracked_tables, queued bigint, texts integer)
returns jsonb language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  percent constant float8 := least(100, 200.0 * texts / greatest(queued, 1));
begin
  return (
    select coalesce(jsonb_object_agg(k.row_id, k.block), '{}')
    from (
      select q.row_id, (q.ctid::text::point)[0]::bigint as block
      from embedding.queue q tablesample system (percent) repeatable (1)
      where q.collection_id = c.id and q.failed_at is null
      order by hashint8((q.ctid::text::point)[0]::bigint), 2
      limit texts
    ) k);
end;
$$;
comment on function embedding.sample_queue is
  'Up to `texts` queued rows of a collection that are not failed, as {key: block of the queue}. queued is the number of all such rows.';
revoke all on function embedding.sample_queue from public, anon, authenticated, service_role;
grant execute on function embedding.sample_queue to service_role;
