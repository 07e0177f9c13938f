-- Filters beyond equality, for every search: {"path": {"prefix": "src/"}}, {"path": {"like": "%.py"}}, {"tags": {"contains": "jazz"}}.
-- They are part of the core's own scans, so a filtered search still fills match_count.

create or replace function embedding.filter_condition(source regclass, filter jsonb)
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  field record;
  test record;
  condition text := '';
begin
  if filter is null or jsonb_typeof(filter) = 'null' then
    return '';
  elsif jsonb_typeof(filter) <> 'object' then
    raise exception 'filter must be an object of column names and values, not %', jsonb_typeof(filter)
      using errcode = '22023';
  end if;
  for field in select f.key as name, f.value from jsonb_each(filter) f order by f.key loop
    if not exists (select from pg_catalog.pg_attribute a
                   where a.attrelid = source and a.attname = field.name and a.attnum > 0 and not a.attisdropped) then
      raise exception 'filter names the column "%", which % does not have', field.name, source
        using errcode = '42703';
    end if;
    for test in
      select f.key as operator, f.value #>> '{}' as wanted
      from jsonb_each(case when jsonb_typeof(field.value) = 'object' then field.value else jsonb_build_object('equals', field.value) end) f
      order by f.key
    loop
      if test.operator not in ('equals', 'prefix', 'like', 'contains') then
        raise exception 'filter knows equals, prefix, like and contains, not "%"', test.operator using errcode = '22023';
      end if;
      if test.wanted is not null then
        condition := condition || case test.operator
          when 'equals' then format(' and s.%I = %L', field.name, test.wanted)
          when 'prefix' then format(' and s.%I ^@ %L', field.name, test.wanted)
          when 'like' then format(' and s.%I like %L', field.name, test.wanted)
          else format(' and s.%I @> %L', field.name, array[test.wanted])
        end;
      end if;
    end loop;
  end loop;
  return condition;
end;
$$;
comment on function embedding.filter_condition(regclass, jsonb) is
  'The SQL for {column: value} or {column: {operator: value}}, all of which must hold; operators are equals, prefix, like and contains '
  '(of an array). NULL filters nothing. Quoted, and only columns of the table.';
