-- Lists what a database lacks before Tonnetz can be set up in it, each with the statement that fixes it. It reads only the
-- catalog. If a row has `alone`, the other rows are not shown: they depend on the user, and DATABASE_URL names a wrong user.
with me as (
  select r.rolname, r.rolsuper, quote_ident(r.rolname) as name, quote_ident(current_database()) as database,
    r.rolsuper or r.rolcreaterole as creates_roles,
    has_database_privilege(current_database(), 'create') as creates_schemas,
    current_setting('server_version_num')::int >= 160000 as since_16
  from pg_roles r where r.rolname = current_user
),
api as (
  select a.role, r.oid, r.oid is not null as present, r.rolsuper or r.rolbypassrls as sees_all,
    -- From 16 on who creates a role may administer it, but not act as it.
    r.oid is not null and pg_has_role(r.oid, case when me.since_16 then 'set' else 'member' end) as granted,
    me.rolsuper or (me.creates_roles and not me.since_16)
      or (r.oid is not null and pg_has_role(r.oid, 'member with admin option')) as grantable
  from me, unnest(array['anon', 'authenticated', 'service_role']) a (role)
  left join pg_roles r on r.rolname = a.role
),
pgvector as (
  select e.extversion, e.extname is not null as present, n.nspname as home, a.default_version as offered,
    coalesce(e.extversion, a.default_version) as version,
    me.rolsuper or (me.creates_schemas and exists (
      select from pg_available_extension_versions v where v.name = 'vector' and v.version = a.default_version and v.trusted)) as creatable
  from me
  left join pg_extension e on e.extname = 'vector'
  left join pg_namespace n on n.oid = e.extnamespace
  left join pg_available_extensions a on a.name = 'vector'
),
lacks (position, alone, required, what, fix) as (
  select 1, true, true,
    format('the schema %I belongs to %I, and %s may not act as that user', n.nspname, n.nspowner::regrole::text, me.name),
    format('set DATABASE_URL to the user %I', n.nspowner::regrole::text)
  from pg_namespace n, me
  where n.nspname in ('embedding', 'supabase_migrations') and not pg_has_role(n.nspowner, 'usage')

  union all
  select 2, false, true, format('%s may not create schemas in this database', me.name),
    format('grant create on database %s to %s;', me.database, me.name)
  from me where not me.creates_schemas
  union all
  select 2, false, true, format('%s may not create tables in the schema public', me.name),
    format('grant create, usage on schema public to %s;', me.name)
  from me where not has_schema_privilege('public', 'create')
  union all
  select 2, false, true, format('%s may not create functions in the schema auth', me.name),
    format('grant create, usage on schema auth to %s;', me.name)
  from me
  where to_regnamespace('auth') is not null and not has_schema_privilege('auth', 'create')
    and not exists (select from pg_proc p where p.proname = 'jwt' and p.pronamespace = to_regnamespace('auth'))

  union all
  select 3, false, true, 'the server has no pgvector', 'install pgvector 0.8 or newer on the server'
  from pgvector p where not p.present and p.offered is null
  union all
  select 3, false, true, format('pgvector is %s, but Tonnetz needs 0.8 or newer', p.version),
    case when p.present and string_to_array(substring(p.offered from '^[0-9.]+'), '.')::int[] >= '{0,8}'
      then 'alter extension vector update;'
      else 'install pgvector 0.8 or newer on the server' || case when p.present then ', then: alter extension vector update;' else '' end end
  from pgvector p where string_to_array(substring(p.version from '^[0-9.]+'), '.')::int[] < '{0,8}'
  union all
  select 3, false, true, 'pgvector is not in this database, and ' || me.name || ' may not create it',
    'create schema if not exists extensions; create extension vector with schema extensions;'
  from pgvector p, me where not p.present and p.offered is not null and not p.creatable
  union all
  select 3, false, true, format('pgvector is in the schema %I, not in extensions', p.home),
    format('create schema if not exists extensions; alter extension vector set schema extensions; -- tables keep their vectors; '
      'your functions and clients that write %1$I.vector must write extensions.vector, and those that write vector need '
      'extensions in their search_path: alter database %2$s set search_path = "$user", public, extensions;', p.home, me.database)
  from pgvector p, me where p.home <> 'extensions'

  union all
  select 4, false, true, 'the role ' || a.role || ' is missing',
    format('create role %1$s nologin noinherit%2$s; grant %1$s to %3$s;', a.role,
      case when a.role = 'service_role' then ' bypassrls' else '' end, me.name)
  from api a, me where not a.present and not me.creates_roles
  union all
  select 4, false, true, format('%s may not act as %s', me.name, a.role), format('grant %s to %s;', a.role, me.name)
  from api a, me where a.present and not a.granted and not a.grantable
  union all
  select 5, false, true, format('%s may not use the schema %I', string_agg(u.name, ', ' order by u.name), n.nspname),
    format('grant usage on schema %I to %s;', n.nspname, string_agg(u.name, ', ' order by u.name))
  from pg_namespace n, me,
    lateral (select me.name as name, me.rolname as role union select a.role, a.role from api a where a.present) u
  where n.nspname in ('extensions', 'public', 'auth') and not has_schema_privilege(u.role, n.oid, 'usage')
    and not pg_has_role(n.nspowner, 'usage') and not has_schema_privilege(n.oid, 'usage with grant option')
  group by n.nspname

  union all
  select 6, false, false, 'service_role has no BYPASSRLS, so each tracked table gets a policy for it',
    'alter role service_role bypassrls;'
  from api a where a.role = 'service_role' and not a.sees_all
)
select required, what, fix from lacks
where alone or not exists (select from lacks l where l.alone)
order by position, what
limit case when exists (select from lacks l where l.alone) then 1 end
