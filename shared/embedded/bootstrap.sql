-- Creates in any PostgreSQL what a Supabase project has before its first migration. It is safe to repeat, and changes nothing
-- on Supabase itself. It creates no role that can log in, and does not change default privileges, which the owner decides on.

do $$
declare
  me constant record := (select r from pg_roles r where r.rolname = current_user);
  since_16 constant boolean := current_setting('server_version_num')::int >= 160000;
  role text;
begin
  foreach role in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_roles where rolname = role) then
      execute format('create role %I nologin noinherit', role);
      -- Supabase's time limits. They hold where PostgREST switches to the role; the functions set their own.
      if role <> 'service_role' then
        execute format('alter role %I set statement_timeout = %L', role, case role when 'anon' then '3s' else '8s' end);
      end if;
      -- Without this right service_role reads a table with row level security by a policy, which tracking creates.
      if role = 'service_role' and (me.rolsuper or (me.rolbypassrls and since_16)) then
        alter role service_role bypassrls;
      end if;
    end if;
    -- The program connects as its own user and switches to these roles. Since 16 who creates a role may not yet do that.
    if not pg_has_role(role, case when since_16 then 'set' else 'member' end) then
      execute format('grant %I to %I', role, current_user);
    end if;
  end loop;
end;
$$;

create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;
grant usage on schema public to anon, authenticated, service_role;

-- The claims of a request, for row level security policies that are written for Supabase.
create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;
do $$
begin
  if to_regprocedure('auth.jwt()') is null then
    create function auth.jwt() returns jsonb language sql stable as
      $f$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $f$;
    create function auth.uid() returns uuid language sql stable as
      $f$ select (auth.jwt() ->> 'sub')::uuid $f$;
    create function auth.role() returns text language sql stable as
      $f$ select auth.jwt() ->> 'role' $f$;
  end if;
end;
$$;

create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
alter table supabase_migrations.schema_migrations add column if not exists statements text[];
alter table supabase_migrations.schema_migrations add column if not exists name text;
