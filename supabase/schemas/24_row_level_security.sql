-- service_role must see every row. On Supabase it has BYPASSRLS. Another managed server may refuse this right. Then row level
-- security would hide pending rows from service_role, and the collection would look complete.

create function embedding.admit_service_role(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_roles r where r.rolname = 'service_role' and (r.rolsuper or r.rolbypassrls))
    and not exists (select from pg_policy p where p.polrelid = source and p.polname = 'service_role works on every row')
  then
    execute format('create policy "service_role works on every row" on %s to service_role using (true) with check (true)', source);
  end if;
end;
$$;
comment on function embedding.admit_service_role is
  'Gives service_role a policy for all rows of a table if it does not have BYPASSRLS. The policy has no effect until the table has row level security.';
revoke all on function embedding.admit_service_role from public, anon, authenticated, service_role;
