"""The rules of portable SQL for PostgreSQL 15 to 18, pg_upgrade and a restore by an owner without superuser rights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over the catalog: `query` lists violations, `breach` is SQL that violates it."""

    reason: str
    query: str
    breach: str
    found: str


# The condition for schemas of this project: not those of the server, of Supabase or of pgvector.
_OURS = "n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'extensions', 'auth', 'supabase_migrations')"
_FUNCTIONS = f"""
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where {_OURS}
    and not exists (
      select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')"""

RULES = {
    "an SQL-standard function body": Rule(
        reason="On PostgreSQL 15 a table whose row type it reads cannot be altered any more.",
        query=f"select p.oid::regprocedure::text {_FUNCTIONS} and p.prosqlbody is not null",
        breach="""
            create function embedding.bad(document public.music_knowledge) returns text
            language sql immutable set search_path = '' return document.content""",
        found="embedding.bad(music_knowledge)",
    ),
    "a reg* type in a stored column": Rule(
        reason="pg_upgrade refuses the database.",
        # The query also finds such a type inside an array, a domain or a row type.
        query=f"""
            with recursive holders (type) as (
              select t.oid from pg_type t where t.typnamespace = 'pg_catalog'::regnamespace and t.typname like 'reg%'
              union
              select w.oid
              from holders h
              join pg_type w on w.typelem = h.type or w.typbasetype = h.type or exists (
                select from pg_attribute a
                where a.attrelid = w.typrelid and a.atttypid = h.type and a.attnum > 0 and not a.attisdropped)
            )
            select format('%I.%I.%I', n.nspname, c.relname, a.attname)
            from pg_attribute a
            join pg_class c on c.oid = a.attrelid
            join pg_namespace n on n.oid = c.relnamespace
            where {_OURS} and c.relkind in ('r', 'p', 'm', 'i', 'I', 'f') and a.attnum > 0 and not a.attisdropped
              and a.atttypid in (select h.type from holders h)""",
        breach="create domain embedding.bad as regconfig; create table embedding.worse (languages embedding.bad[])",
        found="embedding.worse.languages",
    ),
    "a setting of an extension on a function": Rule(
        reason="Only a superuser may restore it. Call set_config(name, value, true) in the body.",
        query=f"""
            select p.oid::regprocedure::text {_FUNCTIONS}
              and exists (select from unnest(p.proconfig) s (setting) where split_part(s.setting, '=', 1) like '%.%')""",
        breach="""
            select '[0]'::extensions.vector;
            create function embedding.bad() returns int language sql
            set search_path = '' set hnsw.ef_search = 100 as $$ select 1 $$""",
        found="embedding.bad()",
    ),
    "a search_path that others can extend": Rule(
        reason="A function or an operator of another schema could be called instead of the intended one.",
        query=f"""
            select p.oid::regprocedure::text {_FUNCTIONS}
              and not coalesce(p.proconfig, '{{}}') && array['search_path=""', 'search_path=pg_catalog, pg_temp']""",
        breach="""
            create function embedding.bad() returns int language sql
            set search_path = public, pg_temp as $$ select 1 $$""",
        found="embedding.bad()",
    ),
    "a function without a search_path": Rule(
        reason="It looks up names wherever its caller does.",
        query=f"""
            select p.oid::regprocedure::text {_FUNCTIONS}
              and not exists (select from unnest(p.proconfig) s (setting) where s.setting like 'search_path=%')""",
        breach="create function embedding.bad() returns int language sql as $$ select 1 $$",
        found="embedding.bad()",
    ),
    "an operator outside pg_catalog and extensions": Rule(
        reason="Nothing here may be found by an operator's bare name.",
        query=f"select o.oid::regoperator::text from pg_operator o join pg_namespace n on n.oid = o.oprnamespace where {_OURS}",
        breach="create operator embedding.=== (leftarg = text, rightarg = text, function = pg_catalog.texteq)",
        found="embedding.===(text,text)",
    ),
}

# Matches a quoted body, a literal or a comment.
_QUOTED = re.compile(r"(\$\w*\$)(.*?)\1|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
# Matches pgvector's own operators, and others that compare a column of vectors.
_OPERATORS = re.compile(r"<=>|<->|<#>|<\+>|<~>|<%>|(?<=\w\.embedding )\s*(?:<>|!=|<=|>=|=|<|>)")
_QUALIFIED = re.compile(r"\boperator\s*\(\s*extensions\.\S+\s*\)", re.IGNORECASE)
_FUNCTION = re.compile(
    r"\bcreate\s+(?:or\s+replace\s+)?(?:function|procedure)\s+([\w.]+)(.*)", re.IGNORECASE | re.DOTALL
)
_SEARCH_PATH = re.compile(r"\bset\s+search_path\s*(?:=|\bto\b)\s*(''|pg_catalog\s*,\s*pg_temp)(?=\s)", re.IGNORECASE)
_SETTING = re.compile(r"\bset\s+\w+\.\w+\s*(?:=|\bto\b)", re.IGNORECASE)
_TABLE = re.compile(r"\b(?:create|alter)\s+(?:materialized\s+view|table|type|domain)\b", re.IGNORECASE)
_REG_TYPE = re.compile(
    r"(?<!:)\breg(?:class|collation|config|dictionary|namespace|oper|operator|proc|procedure|role|type)\b",
    re.IGNORECASE,
)


def statements(script: str) -> Iterator[str]:
    """The statements of a script, without comments. Quoted bodies become `$$`, and other literals `''`."""

    def mask(match: re.Match[str]) -> str:
        if match[1]:
            return "$$"
        return "''" if match[0].startswith("'") else ""

    yield from (part.strip() for part in _QUOTED.sub(mask, script).split(";") if part.strip())


def code(script: str) -> str:
    """The script without its comments. Literals stay, because some of them contain SQL that is run."""
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", script, flags=re.DOTALL)


def breaches(script: str) -> list[str]:
    """List the parts of a script that are not portable."""
    found = []
    for operator in map(str.strip, _OPERATORS.findall(_QUALIFIED.sub("", code(script)))):
        found.append(f"{operator} is not written operator(extensions.{operator})")
    for statement in statements(script):
        function = _FUNCTION.match(statement)
        if function:
            name, rest = function[1], function[2]
            if not re.search(r"\bas\s+\$\$", rest, re.IGNORECASE):
                found.append(f"{name} has no quoted body (as $$ ... $$)")
            if not _SEARCH_PATH.search(rest + " "):
                found.append(f"{name} does not set search_path to '' or to pg_catalog, pg_temp")
            found += [f"{name}: {setting} ... on a function" for setting in _SETTING.findall(rest)]
        if _TABLE.match(statement):
            found += [
                f"{kind} in a stored column: {statement.splitlines()[0]}" for kind in _REG_TYPE.findall(statement)
            ]
    return found
