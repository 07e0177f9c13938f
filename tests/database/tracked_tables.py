"""Tables with keys of several types, for the tests of tracking."""

from tests.database.rows import Connection

# name, table, key, how the key is filled
TABLES = {
    "notes": ("create table notes (id bigint generated always as identity primary key, body text)", ""),
    "tags": ("create table tags (name text primary key, body text)", "name"),
    "codes": ("create table codes (code varchar(20) primary key, body text)", "code"),
    "small": ("create table small (id smallint primary key, body text)", "id"),
    "numbers": ("create table numbers (id integer primary key, body text)", "id"),
    "things": ("create table things (id uuid primary key default gen_random_uuid(), body text)", ""),
    "library.books": ("create schema library; create table library.books (id bigint primary key, body text)", "id"),
    '"Odd ""Name"" %s"': ('create table "Odd ""Name"" %s" ("The Key" text primary key, body text)', '"The Key"'),
}


def make(owner: Connection, table: str) -> str:
    """Create a table and its document_text function, track it; return the collection's name."""
    statement, _ = TABLES[table]
    owner.execute(statement)
    owner.execute(
        f"create function embedding.document_text(t {table}) returns text language sql immutable return nullif(t.body, '')"
    )
    found = owner.execute("select track_embeddings(%s)", [table]).fetchone()
    assert found
    return str(found[0])


def insert(owner: Connection, table: str, *bodies: str) -> None:
    _, key = TABLES[table]
    table, key = table.replace("%", "%%"), key.replace("%", "%%")
    for number, body in enumerate(bodies, 1):
        if key:
            owner.execute(f"insert into {table} ({key}, body) values (%s, %s)", [str(number), body])
        else:
            owner.execute(f"insert into {table} (body) values (%s)", [body])
