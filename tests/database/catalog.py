"""Describes a database by its catalog: two databases are equal if every query returns equal rows."""

from collections.abc import Mapping

from tests.conftest import Connection

_OURS = "('public', 'embedding')"
_NOT_OF_AN_EXTENSION = "not exists (select from pg_depend d where d.objid = o.oid and d.deptype = 'e')"


def _grants(acl: str, kind: str, owner: str) -> str:
    """SQL for the privileges of an object, in an order that does not depend on the order of the grants."""
    return (
        "array(select concat_ws(':', e.grantee::regrole, e.privilege_type, e.is_grantable, e.grantor::regrole)"
        f" from aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) e order by 1)"
    )


QUERIES: Mapping[str, str] = {
    "schemas": f"""
        select o.nspname, obj_description(o.oid, 'pg_namespace'), {_grants("o.nspacl", "n", "o.nspowner")}
        from pg_namespace o where o.nspname in ('public', 'embedding', 'extensions') order by 1""",
    "extensions": """
        select o.extname, o.extnamespace::regnamespace::text from pg_extension o order by 1""",
    "functions": f"""
        select o.oid::regprocedure::text, pg_get_functiondef(o.oid), obj_description(o.oid, 'pg_proc'),
          {_grants("o.proacl", "f", "o.proowner")}
        from pg_proc o join pg_namespace n on n.oid = o.pronamespace
        where n.nspname in {_OURS} and {_NOT_OF_AN_EXTENSION} order by 1""",
    "types": f"""
        select o.oid::regtype::text, o.typtype::text, obj_description(o.oid, 'pg_type')
        from pg_type o join pg_namespace n on n.oid = o.typnamespace
        where n.nspname in {_OURS} and {_NOT_OF_AN_EXTENSION} order by 1""",
    "relations": f"""
        select o.oid::regclass::text, o.relkind::text, o.relpersistence::text, o.relrowsecurity, o.relforcerowsecurity,
          o.reloptions, obj_description(o.oid, 'pg_class'),
          {_grants("o.relacl", "r", "o.relowner")}
        from pg_class o join pg_namespace n on n.oid = o.relnamespace
        where n.nspname in {_OURS} and o.relkind in ('r', 'p', 'v', 'm', 'f') and {_NOT_OF_AN_EXTENSION} order by 1""",
    "columns": f"""
        select o.oid::regclass::text, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
          a.attidentity::text, a.attgenerated::text, a.attstorage::text, pg_get_expr(d.adbin, d.adrelid),
          col_description(o.oid, a.attnum), a.attstattarget, {_grants("a.attacl", "c", "o.relowner")}
        from pg_class o join pg_namespace n on n.oid = o.relnamespace
        join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = o.oid and d.adnum = a.attnum
        where n.nspname in {_OURS} and o.relkind in ('r', 'p', 'v', 'm', 'f') order by 1, 2""",
    "views": f"""
        select o.oid::regclass::text, pg_get_viewdef(o.oid)
        from pg_class o join pg_namespace n on n.oid = o.relnamespace
        where n.nspname in {_OURS} and o.relkind in ('v', 'm') and {_NOT_OF_AN_EXTENSION} order by 1""",
    "sequences": f"""
        select o.oid::regclass::text, s.seqtypid::regtype::text, s.seqstart, s.seqincrement, s.seqcycle,
          {_grants("o.relacl", "s", "o.relowner")}
        from pg_sequence s join pg_class o on o.oid = s.seqrelid join pg_namespace n on n.oid = o.relnamespace
        where n.nspname in {_OURS} order by 1""",
    "constraints": f"""
        select o.conrelid::regclass::text, o.conname, pg_get_constraintdef(o.oid), obj_description(o.oid, 'pg_constraint')
        from pg_constraint o join pg_namespace n on n.oid = o.connamespace where n.nspname in {_OURS} order by 1, 2""",
    "indexes": f"""
        select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid, o.reloptions,
          obj_description(o.oid, 'pg_class')
        from pg_index i join pg_class o on o.oid = i.indexrelid join pg_namespace n on n.oid = o.relnamespace
        where n.nspname in {_OURS} order by 1""",
    "triggers": """
        select pg_get_triggerdef(o.oid), o.tgenabled::text, obj_description(o.oid, 'pg_trigger')
        from pg_trigger o where not o.tgisinternal order by 1""",
    "policies": """
        select schemaname, tablename, policyname, permissive, roles::text[], cmd, qual, with_check
        from pg_policies order by 1, 2, 3""",
    "default privileges": f"""
        select n.nspname, o.defaclobjtype::text, o.defaclrole::regrole::text,
          {_grants("o.defaclacl", "r", "o.defaclrole")}
        from pg_default_acl o left join pg_namespace n on n.oid = o.defaclnamespace order by 1, 2, 3""",
    "collections": """
        select to_jsonb(c) - array['created_at', 'reuse_mark'] from embedding.collections c order by c.name""",
}


def describe(owner: Connection) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every query."""
    return {name: owner.execute(query).fetchall() for name, query in QUERIES.items()}
