-- The triggers of a tracked table and track_embeddings run with the rights of the owner of these functions. They also run
-- code of other owners: the table's triggers, policies and generated columns, and document_text. These owners would gain
-- the rights of the functions' owner, so they must have them already.
create function embedding.ownership_error(source regclass)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  held record;
begin
  select t.relowner as table_owner, d.proowner as text_owner, f.proowner as owner into held
  from pg_class t
  cross join pg_proc f
  left join pg_proc d
    on d.proname = 'document_text' and d.pronamespace = f.pronamespace and d.proargtypes = t.reltype::text::oidvector
  where t.oid = source and f.oid = to_regproc('embedding.check_vectors');
  if not pg_has_role(held.table_owner, held.owner, 'usage') then
    return format('%1$s belongs to %2$s, who would gain the rights of %3$s, the owner of the functions: alter table %1$s owner to %3$s;',
      source, held.table_owner::regrole, held.owner::regrole);
  elsif not pg_has_role(held.text_owner, held.owner, 'usage') then
    return format('embedding.document_text(%1$s) belongs to %2$s, who would gain the rights of %3$s, the owner of the functions: alter function embedding.document_text(%1$s) owner to %3$s;',
      source, held.text_owner::regrole, held.owner::regrole);
  end if;
  return null;
end;
$$;
comment on function embedding.ownership_error is
  'Why a table cannot be tracked: the table or its document_text belongs to a role without the rights of the owner of these functions. Null if the table can be tracked.';
revoke all on function embedding.ownership_error from public, anon, authenticated, service_role;
grant execute on function embedding.ownership_error to service_role;

create function embedding.check_ownership(source regclass)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  problem constant text := embedding.ownership_error(source);
begin
  if problem is not null then
    raise exception '%', problem
      using errcode = '55000', hint = 'Or apply the migrations as the owner of your tables, or stop tracking the table: select untrack_embeddings(''...'');';
  end if;
end;
$$;
comment on function embedding.check_ownership is 'Raises the error of ownership_error.';
revoke all on function embedding.check_ownership from public, anon, authenticated, service_role;
grant execute on function embedding.check_ownership to service_role;
