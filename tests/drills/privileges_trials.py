"""Tries each function and each table as each role, and rolls back."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.database.rows import Connection

GOLDEN = Path(__file__).resolve().parents[1] / "database/snapshots/privileges.txt"
# A role without grants has the privileges of public.
BARE_ROLE = "role_without_grants"
ROLES = ("anon", "authenticated", "service_role", BARE_ROLE)

# For each kind of object, statements that need one privilege and change no row.
_STATEMENTS: Mapping[str, Mapping[str, str]] = {
    "table": {
        "select": "select 1 from {name} where false",
        "insert": "insert into {name} default values",
        # These are run for each column, because a role may have the privilege on a column and not on the table.
        "update": "update {name} set {column} = null where false",
        "delete": "delete from {name} where false",
        "truncate": "truncate {name} cascade",
        "trigger": "create trigger tried before insert on {name} for each row"
        " execute function suppress_redundant_updates_trigger()",
    },
    "view": {"select": "select 1 from {name} where false"},
    "sequence": {"select": "select last_value from {name}", "update": "select setval('{name}', 1000000)"},
}
_OURS = (
    "n.nspname in ('public', 'embedding')"
    " and not exists (select from pg_depend d where d.objid = o.oid and d.deptype = 'e')"
)


def golden() -> dict[str, frozenset[str]]:
    """The snapshot's roles by function signature, and by `table privilege` (also of views and sequences)."""
    allowed: dict[str, frozenset[str]] = {}
    table, what = "", "table"
    # The rest of the file lists the stored grants; these trials test the effective privileges.
    for line in GOLDEN.read_text(encoding="utf-8").partition("\n# grants as they are stored")[0].splitlines():
        if line.startswith("  "):
            role, _, kinds = line.strip().partition(": ")
            for kind in _STATEMENTS[what]:
                key = f"{table} {kind}"
                granted = {role.replace("public", BARE_ROLE)} if kind in kinds.split() else set()
                allowed[key] = allowed.get(key, frozenset()) | granted
        elif "(" in line and re.search(r"\): [a-z_ -]+$", line):
            signature, _, roles = line.rpartition(": ")
            allowed[signature] = frozenset(roles.replace("public", BARE_ROLE).split()) - {"-"}
        elif line and not line.startswith("#"):
            table, _, noted = line.rstrip(")").partition(" (")
            what = noted if noted in _STATEMENTS else "table"
    return allowed


def trials(owner: Connection) -> Iterator[tuple[str, str, list[str]]]:
    """(key of the golden file, name in the error, statements) for every function, table, view and sequence."""
    functions = owner.execute(
        f"""select o.oid::regprocedure::text, n.nspname, o.proname, o.provariadic <> 0,
              array(select t::regtype::text from unnest(o.proargtypes::oid[]) with ordinality a (t, place) order by place)
            from pg_proc o join pg_namespace n on n.oid = o.pronamespace where {_OURS}"""
    ).fetchall()
    for signature, schema, name, variadic, kinds in functions:
        # The nulls come from a subquery: PostgreSQL would not call a strict function with a constant null at all.
        columns = ", ".join(f"null::{kind} as a{place}" for place, kind in enumerate(kinds)) or "1 as one"
        arguments = [f"a.a{place}" for place in range(len(kinds))]
        if variadic:
            arguments[-1] = f"variadic {arguments[-1]}"
        call = f"select {schema}.{name}({', '.join(arguments)}) from (select {columns} offset 0) a"
        yield str(signature), str(name), [call]
    relations = owner.execute(
        f"""select format('%I.%I', n.nspname, o.relname), o.relname,
              case o.relkind when 'r' then 'table' when 'v' then 'view' else 'sequence' end,
              array(select quote_ident(a.attname) from pg_attribute a
                    where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
                    order by a.attnum)
            from pg_class o join pg_namespace n on n.oid = o.relnamespace where o.relkind in ('r', 'v', 'S') and {_OURS}"""
    ).fetchall()
    for relation, name, what, columns in relations:
        for kind, statement in _STATEMENTS[what].items():
            tried = columns if "{column}" in statement else [""]
            yield f"{relation} {kind}", str(name), [statement.format(name=relation, column=one) for one in tried]


def permitted(connection: Connection, role: str, name: str, statement: str) -> bool:
    """Whether the grants of the object permit the statement. Raises AssertionError if a nested call is refused."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set local lock_timeout = '5s'")
            connection.execute(f"set local role {role}")
            connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        message = error.diag.message_primary or ""
        if re.search(rf"for (function|table|view|sequence) {re.escape(name)}$|for schema ", message):
            return False
        raise AssertionError(f"{role} may call {name}, and within it: {message}") from None
    except psycopg.Error:
        # The arguments were refused, so the call itself was permitted.
        return True
    return True


@contextmanager
def role_without_grants(owner: Connection) -> Iterator[None]:
    """Create a role without grants and drop it afterwards, because roles belong to the whole server."""
    owner.execute(f"drop role if exists {BARE_ROLE}")
    owner.execute(f"create role {BARE_ROLE} nologin")
    try:
        yield
    finally:
        owner.execute(f"drop role {BARE_ROLE}")
