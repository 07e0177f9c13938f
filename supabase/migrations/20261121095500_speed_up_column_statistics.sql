-- pg_stats is a view behind a security barrier: joined by name to a table found at run time, all of it was read, with every
-- column's privileges checked, twice for each collection. That was 40 ms of each answer about coverage, of empty tables too.
-- A name that is known before the view is read goes into it, and one table's statistics are looked up.

create or replace function embedding.text_columns(c embedding.collections)
returns table (attname name, attnum smallint, is_text boolean, reltuples real, null_frac real, n_distinct real)
language sql
stable
security invoker
set search_path = ''
as $$
  select a.attname, a.attnum, t.typcategory = 'S', r.reltuples, st.null_frac, st.n_distinct
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  join pg_catalog.pg_class r on r.oid = a.attrelid
  left join pg_catalog.pg_stats st
    -- Subqueries, not columns of r: they are evaluated first, and their values reach the view.
    on st.schemaname = (
      select n.nspname
      from pg_catalog.pg_class s
      join pg_catalog.pg_namespace n on n.oid = s.relnamespace
      where s.oid = c.source
    )
    and st.tablename = (select s.relname from pg_catalog.pg_class s where s.oid = c.source)
    and st.attname = a.attname and not st.inherited
  where a.attrelid = c.source and a.attnum > 0 and not a.attisdropped
    and (t.typcategory in ('S', 'B') or t.typtype = 'e')
    and a.attname not in (c.key_column, 'embedding_model')
$$;
