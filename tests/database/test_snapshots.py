"""What the migrations make, as text that a review can read; and the rules every function keeps."""

from pathlib import Path

import psycopg
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
    lines = ["# who may do what; public is everybody", ""]
    functions = owner.execute(
        "select o.oid, o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace"
        f" where {OURS} order by n.nspname, 2"
    ).fetchall()
    for oid, signature in functions:
        allowed = [role for role in ROLES if _may(owner, "has_function_privilege", role, oid, "execute")]
        lines.append(f"{signature}: {' '.join(allowed) or '-'}")
    lines.append("")
    tables = owner.execute(
        "select o.oid, format('%I.%I', n.nspname, o.relname), o.relrowsecurity"
        f" from pg_class o join pg_namespace n on n.oid = o.relnamespace where o.relkind = 'r' and {OURS} order by 2"
    ).fetchall()
    for oid, name, secured in tables:
        lines.append(f"{name}{' (row level security)' if secured else ''}")
        for role in ROLES:
            kinds = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
            allowed = [kind for kind in kinds if _may(owner, "has_table_privilege", role, oid, kind)]
            lines.append(f"  {role}: {' '.join(allowed) or '-'}")
    compare(request, "privileges.txt", "\n".join(lines) + "\n")


def _may(owner: Connection, check: str, role: str, oid: object, privilege: str) -> object:
    found = owner.execute(f"select {check}(%s::name, %s::oid, %s)", [role, oid, privilege]).fetchone()
    return found and found[0]


def test_every_function_has_an_empty_search_path(owner: Connection) -> None:
    open_path = owner.execute(
        f"""select o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where {OURS} and not coalesce('search_path=""' = any (o.proconfig), false)"""
    ).fetchall()
    assert open_path == []


def test_every_function_and_table_has_a_comment(owner: Connection) -> None:
    silent = owner.execute(
        f"""select o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where {OURS} and obj_description(o.oid, 'pg_proc') is null
        union all
        select o.oid::regclass::text from pg_class o join pg_namespace n on n.oid = o.relnamespace
        where o.relkind = 'r' and {OURS} and obj_description(o.oid, 'pg_class') is null"""
    ).fetchall()
    assert silent == []


def test_no_function_is_open_to_everybody(owner: Connection) -> None:
    everybody = owner.execute(
        f"""select o.oid::regprocedure::text from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where {OURS} and has_function_privilege('public', o.oid, 'execute')"""
    ).fetchall()
    assert everybody == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_api_callers_may_search_and_nothing_else(owner: Connection, role: str) -> None:
    """A search, and what a search calls on its way."""
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
