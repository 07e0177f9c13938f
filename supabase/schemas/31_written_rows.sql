-- The statements of check_vectors. Only the trigger function sees the transition tables new_rows and old_rows, so these
-- functions return a statement as text and do not run it. In a statement, $1 are the models whose vectors are kept.
--
-- The cost of transition tables was measured with an update of 30,000 rows with vectors of 384 dimensions, in a table with
-- only a primary key. The tables alone add half of the time that the update takes without them. To read one of them adds a
-- quarter of that time, and to join the two adds as much time as the whole update takes. So for an update that does not
-- change texts or vectors, each transition table is read once, and they are not joined.
--
-- safely is true if the text of a row raised an error. Then each text is read in a block of its own.
create function embedding.written_text(source regclass, alias text, safely boolean)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format(case when safely then '(select * from embedding.try_document_text(row(%1$s.*)::%2$s))'
    else '(select null::text as error, null::text as state, embedding.present_text(embedding.document_text(row(%1$s.*)::%2$s)) as text)' end,
    alias, source)
$$;
comment on function embedding.written_text is 'SQL for the text of a written row, as a table of one row: text, error, state.';
revoke all on function embedding.written_text from public, anon, authenticated, service_role;

create function embedding.changed_sql(source regclass, key_column name, operation text, safely boolean)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not safely then
    return format(case operation when 'INSERT' then $sql$
      select n.%1$I::text as row_id, true as needed, null::text as error
      from new_rows n
      where (n.embedding is null or n.embedding_model <> all ($1))
        and embedding.present_text(embedding.document_text(row(n.*)::%2$s)) is not null
    $sql$ else $sql$
      select
        coalesce(n.%1$I, o.%1$I)::text as row_id,
        case
          when n.%1$I is null or (n.embedding is not null and (n.embedding_model = any ($1)) is not false) then false
          else embedding.present_text(embedding.document_text(row(n.*)::%2$s)) is not null
        end as needed,
        null::text as error
      from new_rows n
      -- Use a full join, because the update may have changed keys.
      full join old_rows o on o.%1$I = n.%1$I
      where case
        when n.%1$I is null or o.%1$I is null or (o.embedding is null) <> (n.embedding is null) then true
        when n.embedding is not null and (o.embedding_model <> all ($1)) is distinct from (n.embedding_model <> all ($1)) then true
        when n.embedding is null or n.embedding_model <> all ($1)
          then embedding.document_text(row(o.*)::%2$s) is distinct from embedding.document_text(row(n.*)::%2$s)
        else false
      end
    $sql$ end, key_column, source);
  end if;
  return format($sql$
    select
      coalesce(n.%1$I, o.%1$I)::text as row_id,
      -- If no row can be read, the table or the function is the cause. Its rows stay pending until it is repaired.
      n.%1$I is not null and (n.embedding is null or n.embedding_model <> all ($1))
        and (t.text is not null or coalesce(embedding.error_scope(t.state) = 'table', false)) as needed,
      case when n.%1$I is not null and embedding.error_scope(t.state) = 'row' then t.error end as error
    from new_rows n
    full join %3$s o on o.%1$I = n.%1$I
    cross join lateral embedding.try_document_text(row(n.*)::%2$s) t
    cross join lateral embedding.try_document_text(row(o.*)::%2$s) former
    where n.%1$I is null or o.%1$I is null or (o.embedding is null) <> (n.embedding is null)
      or o.embedding_model is distinct from n.embedding_model
      or row(t.text, t.error) is distinct from row(former.text, former.error)
  $sql$, key_column, source,
    -- An insert has no old rows.
    case operation when 'INSERT' then format('(select * from %s where false)', source) else 'old_rows' end);
end;
$$;
comment on function embedding.changed_sql is
  'SQL for the written rows whose queue entry may have to change, because their state or text has changed. needed is true if the row needs a vector; error says why its text cannot be read.';
revoke all on function embedding.changed_sql from public, anon, authenticated, service_role;

create function embedding.written_sql(source regclass, safely boolean)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  -- pending is true if some rows need a vector, unusual if some have a vector with another model or width than the
  -- collection, stale if some have a vector, a model or a hash that does not belong to their text. $2 is the collection's
  -- model, $3 its width.
  select format($sql$
    select
      coalesce(bool_or(n.embedding is null or n.embedding_model <> all ($1)), false) as pending,
      coalesce(bool_or(n.embedding is not null and (n.embedding_model is distinct from $2
        or extensions.vector_dims(n.embedding) is distinct from $3)), false) as unusual,
      coalesce(bool_or(case
        when n.embedding is null then n.embedding_model is not null or n.embedding_hash is not null
        else n.embedding_model is null
          or (substring(n.embedding_hash for 32) = (select embedding.text_hash(t.text) from %s t)) is not true
      end), false) as stale
    from new_rows n
  $sql$, embedding.written_text(source, 'n', safely))
$$;
comment on function embedding.written_sql is 'SQL that finds out what check_vectors has to do for the written rows.';
revoke all on function embedding.written_sql from public, anon, authenticated, service_role;

create function embedding.enqueue_sql(changed text)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  -- A changed text sets attempts to 0, also for a failed row. A lease stays, because its worker will detect the changed text.
  select format($sql$
    with changed as materialized (%s),
    dequeued as (
      delete from embedding.queue q
      where q.collection_id = $2 and q.row_id = any (array(select c.row_id from changed c where not c.needed and c.error is null))
    )
    insert into embedding.queue as q (collection_id, row_id, attempts, failed_at, error)
    select $2, c.row_id, case when c.error is null then 0 else 1 end, case when c.error is not null then clock_timestamp() end, c.error
    from changed c where c.needed or c.error is not null order by 2
    on conflict on constraint queue_pkey do update
    set attempts = excluded.attempts, failed_at = excluded.failed_at, error = excluded.error,
        leased_at = case when excluded.error is null then q.leased_at end,
        available_at = greatest(excluded.available_at, case when q.leased_at is not null then q.available_at end)
  $sql$, changed)
$$;
comment on function embedding.enqueue_sql is 'SQL that updates the queue with the rows of changed_sql: they are pending, failed, or removed from it. $2 is the id of the collection.';
revoke all on function embedding.enqueue_sql from public, anon, authenticated, service_role;

create function embedding.default_model(source regclass)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select replace((regexp_match(pg_get_expr(d.adbin, d.adrelid), '^''((?:[^'']|'''')*)''::'))[1], '''''', '''')
  from pg_attribute a
  join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = source and a.attname = 'embedding_model' and not a.attisdropped
$$;
comment on function embedding.default_model is
  'The model that was given to track_embeddings, read from the default of the column embedding_model. A vector that is written without a model is assumed to be from this one.';
revoke all on function embedding.default_model from public, anon, authenticated, service_role;

create function embedding.clear_stale_sql(source regclass, key_column name, operation text, safely boolean)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return format($sql$
    update %2$s s
    set embedding = case when fix.adopted then s.embedding end,
        embedding_model = case when fix.adopted then coalesce(s.embedding_model, embedding.default_model(%2$L)) end,
        embedding_hash = case when fix.adopted then fix.text_hash end
    from (
      select
        n.%1$I as key,
        t.text_hash,
        n.embedding is not null and t.text_hash is not null and case
          when n.embedding_hash is distinct from o.embedding_hash then substring(n.embedding_hash for 32) = t.text_hash
          when o.embedding is null or n.embedding operator(extensions.<>) o.embedding
            or n.embedding_model is distinct from o.embedding_model then true
          -- The table already had this vector when it was tracked. It stays if the text has not changed.
          else o.embedding_hash is null
            and embedding.text_hash((embedding.try_document_text(row(o.*)::%2$s)).text) = t.text_hash
        end as adopted
      from new_rows n
      left join %3$s o on o.%1$I = n.%1$I
      cross join lateral (select embedding.text_hash(w.text) as text_hash from %4$s w) t
      where (n.embedding is not null
          and (t.text_hash is null or substring(n.embedding_hash for 32) is distinct from t.text_hash or n.embedding_model is null))
         or (n.embedding is null and (n.embedding_model is not null or n.embedding_hash is not null))
    ) fix
    where s.%1$I = fix.key
  $sql$, key_column, source,
    -- An insert has no old rows.
    case operation when 'INSERT' then format('(select * from %s where false)', source) else 'old_rows' end,
    embedding.written_text(source, 'n', safely));
end;
$$;
comment on function embedding.clear_stale_sql is
  'SQL that clears every vector that was not made from the present text of its row. If a statement writes a new vector without a hash, the vector is assumed to belong to the text of the same statement, and stays. A row whose text cannot be read keeps no vector.';
revoke all on function embedding.clear_stale_sql from public, anon, authenticated, service_role;
