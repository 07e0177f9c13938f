-- Computes the column fts of every tracked table again, if the rows come from another major version of PostgreSQL. Its
-- stemmers may differ ("adding" becomes "ad" until PostgreSQL 17 and "add" since 18), so a search does not find the old
-- lexemes. docs/upgrade.md says when to run this. Only rows whose fts changes are written. Run it as the owner of the tables,
-- who does not have to be a superuser.

do $$
declare
  tracked record;
  fired record;
  disabled text[];
begin
  -- Fail if row level security hides rows from the owner, instead of leaving them out.
  set local row_security = off;
  for tracked in
    select t.source, t.text_config, pg_get_expr(d.adbin, d.adrelid) as expression,
      -- PostgreSQL computes a generated column when a column that it reads is updated.
      (select a.attname
       from pg_depend r
       join pg_attribute a on a.attrelid = r.refobjid and a.attnum = r.refobjsubid
       where r.classid = 'pg_attrdef'::regclass and r.objid = d.oid and r.refclassid = 'pg_class'::regclass and r.refobjid = t.source
         and a.attgenerated = '' limit 1) as read_column
    from embedding.tracked_tables t
    join pg_attribute f on f.attrelid = t.source and f.attname = 'fts' and not f.attisdropped
    left join pg_attrdef d on d.adrelid = f.attrelid and d.adnum = f.attnum and f.attgenerated = 's'
  loop
    -- Only fts changes, so triggers are not needed, and updated_at must stay.
    disabled := '{}';
    for fired in
      select g.tgname, g.tgenabled from pg_trigger g
      where g.tgrelid = tracked.source and not g.tgisinternal and g.tgenabled in ('O', 'A')
    loop
      execute format('alter table %s disable trigger %I', tracked.source, fired.tgname);
      disabled := disabled || format('alter table %s enable %s trigger %I', tracked.source,
        case fired.tgenabled when 'A' then 'always' end, fired.tgname);
    end loop;

    if tracked.expression is null then
      execute format($sql$
        update %1$s s set fts = w.fts
        from (select d.ctid, embedding.fit_lexemes(%2$L::regconfig, coalesce(embedding.document_text(row(d.*)::%1$s), '')) as fts from %1$s d) w
        where w.ctid = s.ctid and s.fts is distinct from w.fts
      $sql$, tracked.source, tracked.text_config);
    else
      execute format('update %1$s s set %2$I = s.%2$I where s.fts is distinct from (%3$s)', tracked.source, tracked.read_column, tracked.expression);
    end if;

    for fired in select e.statement from unnest(disabled) e (statement) loop
      execute fired.statement;
    end loop;
  end loop;
end;
$$;
