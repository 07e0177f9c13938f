"""Compares the migrated schema with readable snapshots, and checks rules for every function."""

from pathlib import Path

import psycopg
import psycopg.sql
import pytest

Connection = psycopg.Connection[tuple[object, ...]]

SNAPSHOTS = Path(__file__).with_name("snapshots")
ROLES = ("public", "anon", "authenticated", "service_role")
OURS = "n.nspname in ('public', 'embedding') and not exists (select from pg_depend d where d.objid = o.oid and d.deptype = 'e')"

COLUMNS = f"""
select format('%I.%I', n.nspname, o.relname),
       format('  %s %s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
         case when a.attnotnull then ' not null' else '' end,
         case when a.attidentity <> '' then ' identity' else '' end,
         case when a.attgenerated <> '' then ' generated as ' || pg_get_expr(d.adbin, d.adrelid)
              when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid) else '' end)
from pg_class o
join pg_namespace n on n.oid = o.relnamespace
join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = o.oid and d.adnum = a.attnum
where o.relkind = 'r' and {OURS}
order by 1, a.attnum
"""
CONSTRAINTS = f"""
select format('%I.%I', n.nspname, o.relname), format('  constraint %s %s', k.conname, pg_get_constraintdef(k.oid))
from pg_constraint k join pg_class o on o.oid = k.conrelid join pg_namespace n on n.oid = o.relnamespace
where {OURS} and k.contype <> 'n' order by 1, 2
"""
INDEXES = f"""
select format('%I.%I', n.nspname, o.relname), '  ' || pg_get_indexdef(i.indexrelid)
from pg_index i join pg_class o on o.oid = i.indrelid join pg_namespace n on n.oid = o.relnamespace
where {OURS} order by 1, 2
"""
TRIGGERS = f"""
select format('%I.%I', n.nspname, o.relname), '  ' || pg_get_triggerdef(t.oid)
from pg_trigger t join pg_class o on o.oid = t.tgrelid join pg_namespace n on n.oid = o.relnamespace
where {OURS} and not t.tgisinternal order by 1, 2
"""
POLICIES = """
select format('%I.%I', schemaname, tablename),
       format('  policy %s %s for %s to %s using (%s)', policyname, permissive, cmd, roles, qual)
from pg_policies order by 1, 2
"""
FUNCTIONS = f"""
select o.oid::regprocedure::text,
       case o.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
       case when o.prosecdef then 'security definer' else 'security invoker' end,
       pg_get_function_arguments(o.oid), pg_get_function_result(o.oid),
       coalesce(array_to_string(o.proconfig, '; '), '')
from pg_proc o join pg_namespace n on n.oid = o.pronamespace
where {OURS} order by n.nspname, 1
"""

KIND = """case o.relkind when 'v' then 'view' when 'S' then 'sequence' when 'p' then 'partitioned' when 'm' then 'materialized view'
  else 'foreign' end"""
SCHEMAS = "('public', 'embedding', 'extensions', 'supabase_migrations', 'auth')"
NO_EXTENSION = "not exists (select from pg_depend d where d.objid = o.oid and d.deptype = 'e')"
GRANTS = f"""
with thing (name, owner, acl) as (
  select 'database', o.datdba, coalesce(o.datacl, acldefault('d', o.datdba)) from pg_database o where o.datname = current_database()
  union all
  select format('schema %I', o.nspname), o.nspowner, coalesce(o.nspacl, acldefault('n', o.nspowner))
  from pg_namespace o where o.nspname in {SCHEMAS}
  union all
  select format('%s %I.%I', case when o.relkind = 'r' then 'table' else {KIND} end, n.nspname, o.relname), o.relowner, o.relacl
  from pg_class o join pg_namespace n on n.oid = o.relnamespace
  where n.nspname in {SCHEMAS} and o.relkind in ('r', 'v', 'S', 'p', 'm', 'f') and {NO_EXTENSION}
  union all
  select format('column %I.%I.%I', n.nspname, o.relname, a.attname), o.relowner, a.attacl
  from pg_attribute a join pg_class o on o.oid = a.attrelid join pg_namespace n on n.oid = o.relnamespace
  where n.nspname in {SCHEMAS} and {NO_EXTENSION}
  union all
  select 'function ' || o.oid::regprocedure, o.proowner, coalesce(o.proacl, acldefault('f', o.proowner))
  from pg_proc o join pg_namespace n on n.oid = o.pronamespace where n.nspname in {SCHEMAS} and {NO_EXTENSION}
  union all
  select format('new %s%s', case o.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
    when 'T' then 'types' when 'n' then 'schemas' else o.defaclobjtype::text end, ' in ' || n.nspname), o.defaclrole, o.defaclacl
  from pg_default_acl o left join pg_namespace n on n.oid = o.defaclnamespace
)
select thing.name, coalesce(nullif(e.grantee, 0)::regrole::text, 'public'),
       string_agg(lower(e.privilege_type) || case when e.is_grantable then '*' else '' end, ' ' order by e.privilege_type)
from thing cross join lateral aclexplode(thing.acl) e
where e.grantee <> thing.owner
  -- Listed above.
  and not (thing.name ^@ 'function ' and thing.name !~ '^function auth' and not e.is_grantable
    and coalesce(nullif(e.grantee, 0)::regrole::text, 'public') in ('public', 'anon', 'authenticated', 'service_role'))
group by 1, 2
union all
select 'role ' || m.member::regrole, m.roleid::regrole::text, 'member'
from pg_auth_members m where m.member::regrole::text in ('anon', 'authenticated', 'service_role', 'authenticator')
order by 1, 2
"""


def compare(request: pytest.FixtureRequest, name: str, text: str) -> None:
    path = SNAPSHOTS / name
    if request.config.getoption("--update-snapshots"):
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; if that is meant: pytest tests/database --update-snapshots"


def test_the_schema_is_the_one_on_record(owner: Connection, request: pytest.FixtureRequest) -> None:
    tables: dict[object, list[object]] = {}
    for query in (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, POLICIES):
        for table, line in owner.execute(query):
            tables.setdefault(table, []).append(line)
    blocks = [f"table {table}\n" + "\n".join(map(str, lines)) for table, lines in sorted(tables.items(), key=str)]
    for signature, volatility, security, arguments, result, settings in owner.execute(FUNCTIONS):
        blocks.append(
            f"function {signature}\n  ({arguments})\n  returns {result}\n  {volatility}, {security}, {settings}"
        )
    compare(request, "schema.txt", "\n\n".join(blocks) + "\n")


def test_the_privileges_are_the_ones_on_record(owner: Connection, request: pytest.FixtureRequest) -> None:
    compare(request, "privileges.txt", privileges(owner))


def privileges(owner: Connection) -> str:
    """The effective privileges of the API's roles and of PUBLIC, and the stored grants of all roles."""
    lines = ["# who may do what; public is everybody", ""]
    functions = owner.execute(
        "select o.oid, o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace"
        f" where {OURS} order by n.nspname, 2"
    ).fetchall()
    for oid, signature in functions:
        allowed = [role for role in ROLES if _may(owner, "has_function_privilege", role, oid, "execute")]
        lines.append(f"{signature}: {' '.join(allowed) or '-'}")
    lines.append("")
    relations = owner.execute(
        f"""select o.oid, o.relkind::text, format('%I.%I', n.nspname, o.relname)
              || case when o.relkind <> 'r' then format(' (%s)', {KIND})
                   when o.relrowsecurity then ' (row level security)' else '' end
            from pg_class o join pg_namespace n on n.oid = o.relnamespace
            where o.relkind in ('r', 'v', 'S', 'p', 'm', 'f') and {OURS} order by 3"""
    ).fetchall()
    for oid, kind, name in relations:
        lines.append(str(name))
        for role in ROLES:
            # A privilege on a single column also counts; these columns are listed below.
            checks = (
                dict.fromkeys(("select", "usage", "update"), "has_sequence_privilege")
                if kind == "S"
                else dict.fromkeys(("select", "insert", "update", "references"), "has_any_column_privilege")
                | dict.fromkeys(("delete", "truncate", "trigger", "maintain"), "has_table_privilege")
            )
            allowed = [privilege for privilege, check in checks.items() if _may(owner, check, role, oid, privilege)]
            lines.append(f"  {role}: {' '.join(allowed) or '-'}")
    lines += ["", "# grants as they are stored, to others than the owner of the object; * may be passed on", ""]
    lines += [f"{thing}, {grantee}: {kinds}" for thing, grantee, kinds in owner.execute(GRANTS)]
    return "\n".join(lines) + "\n"


def _may(owner: Connection, check: str, role: str, oid: object, privilege: str) -> object:
    found = owner.execute(f"select {check}(%s::name, %s::oid, %s)", [role, oid, privilege]).fetchone()
    return found and found[0]


# A comparison of only tables and functions would find none of these.
@pytest.mark.parametrize(
    "grant",
    [
        "grant update (content) on public.music_knowledge to anon",
        "grant update (title) on public.datasets to authenticated",
        "grant insert on public.dataset_overview to anon",
        "create sequence public.more; grant all on sequence public.more to anon",
        "grant usage on sequence public.genre_tags_id_seq to anon",
        "alter default privileges in schema embedding grant select on tables to anon",
        "alter default privileges grant execute on functions to authenticated",
        "grant create on schema extensions to anon",
        "grant usage on schema supabase_migrations to anon",
        "grant select on supabase_migrations.schema_migrations to authenticated",
        "create view embedding.leak as select * from embedding.queue; grant select on embedding.leak to anon",
        "create materialized view public.leak as select 1 as one",
        "grant execute on function embedding.check_vectors() to authenticator",
        "grant select on public.music_knowledge to service_role with grant option",
        "grant create on database {database} to anon",
        "grant service_role to anon",
    ],
)
def test_a_privilege_that_is_not_on_record_is_noticed(owner: Connection, grant: str) -> None:
    with owner.transaction(force_rollback=True):
        owner.execute(grant.format(database=psycopg.sql.Identifier(owner.info.dbname).as_string()))
        assert privileges(owner) != (SNAPSHOTS / "privileges.txt").read_text()


def test_every_function_sets_a_search_path(owner: Connection) -> None:
    """With an empty path PostgreSQL searches pg_temp first; code that may run as the owner searches it last."""
    wrong = owner.execute(
        f"""select o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where {OURS} and coalesce('search_path=pg_catalog, pg_temp' = any (o.proconfig), false) is distinct from
          (n.nspname = 'embedding' or o.prosecdef or o.prorettype = 'trigger'::regtype)
          and not (n.nspname = 'public' and not o.prosecdef and 'search_path=""' = any (o.proconfig))"""
    ).fetchall()
    assert wrong == []


def test_every_function_and_table_has_a_comment(owner: Connection) -> None:
    silent = owner.execute(
        f"""select o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where {OURS} and obj_description(o.oid, 'pg_proc') is null
        union all
        select o.oid::regclass::text from pg_class o join pg_namespace n on n.oid = o.relnamespace
        where o.relkind = 'r' and {OURS} and obj_description(o.oid, 'pg_class') is null"""
    ).fetchall()
    assert silent == []


def test_no_function_is_granted_to_public(owner: Connection) -> None:
    everybody = owner.execute(
        f"""select o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where {OURS} and has_function_privilege('public', o.oid, 'execute')"""
    ).fetchall()
    assert everybody == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_api_roles_can_only_search(owner: Connection, role: str) -> None:
    """API roles may call the search functions and the functions that these call."""
    rows = owner.execute(
        f"""select n.nspname || '.' || o.proname, o.prosrc, has_function_privilege(%s, o.oid, 'execute')
        from pg_proc o join pg_namespace n on n.oid = o.pronamespace where {OURS}""",
        [role],
    ).fetchall()
    bodies: dict[str, str] = {}
    for name, body, _ in rows:
        bodies[str(name)] = bodies.get(str(name), "") + str(body)
    allowed = {str(name) for name, _, may in rows if may}
    needed = {name for name in bodies if name.startswith("public.search_")}
    assert needed
    while more := {name for name in bodies for caller in needed if f"{name}(" in bodies[caller]} - needed:
        needed |= more
    assert allowed == needed
