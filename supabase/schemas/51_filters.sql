-- Filters of every search: {"kind": "song"}, {"path": {"prefix": "src/"}}, {"path": {"like": "%.py"}}, {"tags": {"contains": "jazz"}}.
-- The condition is part of the scans that find candidates, so a filtered search still returns match_count rows.
create function embedding.filter_condition(source regclass, filter jsonb)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  field record;
  test record;
  kept record;
  one text;
  condition text := '';
begin
  if filter is null or jsonb_typeof(filter) = 'null' then
    return '';
  elsif jsonb_typeof(filter) <> 'object' then
    raise exception 'filter must be an object of column names and values, not %', jsonb_typeof(filter)
      using errcode = '22023';
  elsif pg_column_size(filter) > 65536 then
    raise exception 'filter must have at most 64 kB' using errcode = '22023';
  end if;
  for field in select f.key as name, f.value from jsonb_each(filter) f order by f.key loop
    select format_type(a.atttypid, a.atttypmod) as type, coalesce(l.collisdeterministic, true) as is_exact into kept
    from pg_catalog.pg_attribute a
    left join pg_catalog.pg_collation l on l.oid = a.attcollation
    where a.attrelid = source and a.attname = field.name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'filter: there is no column "%" in %', left(field.name, 100), source using errcode = '22023';
    end if;
    for test in
      select f.key as operator, f.value #>> '{}' as wanted
      from jsonb_each(case when jsonb_typeof(field.value) = 'object' then field.value else jsonb_build_object('equals', field.value) end) f
      order by f.key
    loop
      if test.operator not in ('equals', 'prefix', 'like', 'contains') then
        raise exception 'filter supports equals, prefix, like and contains, not "%"', left(test.operator, 100) using errcode = '22023';
      end if;
      continue when test.wanted is null;
      one := case test.operator
        when 'equals' then format(' and s.%I = %L', field.name, test.wanted)
        when 'prefix' then format(' and s.%I ^@ %L', field.name, test.wanted)
        when 'like' then format(' and s.%I like %L', field.name, test.wanted)
        else format(' and s.%I @> %L', field.name, array[test.wanted])
      end;
      -- Run the condition without reading a row. This shows whether the column's type has the operator and accepts the value.
      begin
        -- PostgreSQL would raise an error for this only when it compares a row.
        if not kept.is_exact and (test.operator = 'prefix' or test.operator = 'like' and current_setting('server_version_num')::int < 180000) then
          raise feature_not_supported;
        end if;
        execute format('select from %s s where false%s', source, one);
      exception
        -- The caller may not read the column. Raise this error unchanged.
        when insufficient_privilege then
          raise;
        when syntax_error_or_access_rule_violation or feature_not_supported then
          raise exception 'filter: % with this value does not fit the column "%", whose type is %', test.operator, field.name, kept.type
            using errcode = '22023', hint = 'equals takes a value of the column''s type, prefix and like are for text, contains is for arrays.';
      end;
      condition := condition || one;
    end loop;
  end loop;
  return condition;
end;
$$;
comment on function embedding.filter_condition is
  'The SQL condition for a filter {column: value} or {column: {operator: value}}. All entries must be true. The operators are equals, prefix, like and '
  'contains (for arrays). An entry with the value NULL is ignored. Values are quoted.';
revoke all on function embedding.filter_condition from public, anon, authenticated, service_role;
grant execute on function embedding.filter_condition to anon, authenticated, service_role;
