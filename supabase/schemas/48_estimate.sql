-- Estimates how many distinct texts all rows have, from a sample of whole blocks. `blocks` has, for each text of the sample,
-- the number of blocks in which it was found. Equal texts in one block count once: rows that were written together often have
-- equal texts, which would make every text look frequent. `scale` is the number of rows of the table for each sampled row.
--
-- A text in three blocks or more is frequent, so nearly all such texts are in the sample. The other texts are of two kinds.
-- Some are repeated in the table. If there were only these, the numbers of texts in one, two and three blocks would form a
-- series (a Poisson distribution). So the numbers for two and three blocks tell how many of the texts in one block are
-- repeated. Haas and Stokes' estimator, which ANALYZE also uses, counts the repeated texts. The remaining texts in one block
-- are unique, and the table has `scale` times as many. An estimator for only one kind is wrong: if half of the rows have a
-- unique text and the other half one of 1,000 texts, the estimator of ANALYZE finds a quarter of the texts.
create function embedding.distinct_texts(blocks bigint[], scale float8)
returns float8 language sql immutable set search_path = pg_catalog, pg_temp as $$
  select f.three_or_more + (f.one - r.one) * scale
    + case when r.one + f.two > 0
        then (r.one + 2 * f.two) * (r.one + f.two) / (2 * f.two + r.one / scale) else 0 end
  from (
    select
      count(*) filter (where b = 1)::float8 as one, count(*) filter (where b = 2)::float8 as two,
      count(*) filter (where b = 3)::float8 as three, count(*) filter (where b >= 3)::float8 as three_or_more
    from unnest(blocks) b
  ) f
  -- Subtract one standard deviation, so that a few texts in three blocks do not determine the result.
  cross join lateral (select least(f.one, 2 * f.two ^ 2 / (3 * nullif(f.three - sqrt(f.three), 0))) as one) r
$$;
comment on function embedding.distinct_texts is 'Estimates the number of distinct texts from the number of blocks in which each text of a sample was found.';
revoke all on function embedding.distinct_texts from public, anon, authenticated, service_role;
grant execute on function embedding.distinct_texts to service_role;

create function embedding.estimate_from_sample(
  c embedding.tracked_tables, model text, sample_size integer, queued bigint,
  out rows bigint, out texts bigint, out characters bigint, out sample text[]
)
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  vectors record;
  unqueued record;
  needy bigint;
  texts_wanted integer;
  looks_up boolean;
  kept constant text[] := coalesce(embedding.kept_models(model, c.retiring_models), array[model]);
begin
  select v.* into vectors from embedding.sample_vectors(c) v;
  -- Without this index the look-up would read the whole table.
  looks_up := vectors.models ? model and not c.client_vectors and exists (
    select from pg_index x
    join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
    where x.indrelid = c.source and a.attname = 'embedding_hash' and x.indisvalid);
  needy := vectors.rows - (select coalesce(sum(m.value::bigint), 0) from jsonb_each_text(vectors.models) m where m.key = any (kept));
  texts_wanted := embedding.sampled_texts(c, vectors.rows);
  select u.* into unqueued from embedding.sample_unqueued(c, kept, needy) u;
  if unqueued.rows > queued then
    select u.* into unqueued from embedding.sample_unqueued(c, kept, needy, texts_wanted) u;
  end if;
  rows := queued + unqueued.rows;
  select r.* into texts, characters, sample
  from embedding.read_table(c, $sql$
    with read as materialized (
      select t.text as document, %6$s as suffix, p.value as block, count(*) as rows
      from jsonb_each_text($2 -> 'places') p
      join %2$s s on s.%1$I = p.key::%4$s
      cross join lateral %3$s t
      where t.text is not null
      group by 1, 2, 3
    ),
    found as materialized (
      select r.document, count(*) as blocks, %5$s as held from read r group by r.document, r.suffix
    ),
    counted as (
      select
        embedding.distinct_texts(
          array_agg(d.blocks), greatest(($2 ->> 'rows')::float8 / (select sum(r.rows) from read r), 1))
          * avg((not d.held)::integer) as texts,
        avg(char_length(d.document)) filter (where not d.held) as length
      from found d
    )
    select
      coalesce(round(d.texts), 0)::bigint,
      coalesce(round(d.texts * d.length), 0)::bigint,
      coalesce((select array_agg(x.document) from (select f.document from found f where not f.held limit ($2 ->> 'sample_size')::integer) x), '{}')
    from counted d
  $sql$,
    jsonb_build_object('model', model, 'sample_size', sample_size, 'rows', rows, 'places',
      -- Read the texts of the queued rows or those of the other rows, whichever kind has more rows.
      case when unqueued.rows > queued then unqueued.places
        else embedding.sample_queue(c, queued, texts_wanted) end),
    array[c.key_type, case when looks_up then $sql$exists (
      select from $sql$ || c.source::text || $sql$ s
      where s.embedding_hash = embedding.text_hash(r.document) || r.suffix and s.embedding_model = $2 ->> 'model' and s.embedding is not null
      -- Look up each text separately. Without this line the planner may read the whole table.
      offset 0
    )$sql$ else 'false' end, embedding.hash_suffix(c)]) r (texts bigint, characters bigint, sample text[]);
exception
  when others then
    -- If no row can be read, this raises an error that names the fix.
    perform embedding.concerns_rows(c, sqlstate, sqlerrm);
    raise;
end;
$$;
comment on function embedding.estimate_from_sample is
  'Like estimate_embeddings, for a large table or a long queue. queued is the number of queued rows that are not failed. The rows are the queued ones, and others that are estimated from a sample; texts are read from 20,000 rows.';
revoke all on function embedding.estimate_from_sample from public, anon, authenticated, service_role;
grant execute on function embedding.estimate_from_sample to service_role;

create function public.estimate_embeddings(collection text, model text, sample_size integer default 1000)
returns table (rows bigint, texts bigint, characters bigint, sample text[], estimated boolean)
language plpgsql stable security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  queued constant bigint := (select count(*) from embedding.queue q where q.collection_id = c.id and q.failed_at is null);
  kept constant text[] := coalesce(embedding.kept_models(model, c.retiring_models), array[model]);
begin
  estimated := queued > 20000 or embedding.is_large(c.source);
  if estimated then
    select e.* into rows, texts, characters, sample from embedding.estimate_from_sample(c, model, sample_size, queued) e;
    return next;
    return;
  end if;
  select r.* into rows, texts, characters, sample
  from embedding.read_table(c, $sql$
    with pending as (
      select t.text as document, %4$s as suffix
      from %2$s s cross join lateral %3$s t
      where (s.embedding is null or (s.embedding_model = any (array(select jsonb_array_elements_text($2 -> 'kept')))) is not true)
        and not exists (
          select from embedding.queue q
          where q.collection_id = ($1).id and q.row_id = s.%1$I::text and q.failed_at is not null
        )
    ),
    -- Equal texts are embedded once; texts that have a vector of this model in the table are not embedded again.
    payable as (
      select distinct on (p.document, p.suffix) p.document
      from pending p
      where p.document is not null
        and not exists (
          select from %2$s s
          where s.embedding_hash = embedding.text_hash(p.document) || p.suffix and s.embedding_model = $2 ->> 'model' and s.embedding is not null
            and not ($1).client_vectors
        )
    )
    select
      (select count(*) from pending p where p.document is not null),
      count(*),
      coalesce(sum(char_length(t.document)), 0)::bigint,
      coalesce((select array_agg(x.document) from (select y.document from payable y limit ($2 ->> 'sample_size')::integer) x), '{}')
    from payable t
  $sql$, jsonb_build_object('model', model, 'sample_size', sample_size, 'kept', kept), array[embedding.hash_suffix(c)]) r (rows bigint, texts bigint, characters bigint, sample text[]);
  return next;
end;
$$;
comment on function public.estimate_embeddings is
  'What a backfill with this model would have to embed: the rows that have no vector of this model or of a model that no backfill makes (without failed rows), their distinct texts that need a provider, the characters of these texts, and a sample of them on which tokens can be counted. estimated is true if the table or the queue is so long that the numbers are from a sample.';
revoke all on function public.estimate_embeddings from public, anon, authenticated, service_role;
grant execute on function public.estimate_embeddings to service_role;
