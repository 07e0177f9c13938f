#!/usr/bin/env python3
"""Checks an installation from end to end: settings, database, provider, and a scratch row that is embedded and found.

Prints one line for each step: the result, or the error and the fix. The scratch row does not stay in the database.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import command
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.pooling import Pooling
from shared.deadline import Deadline
from shared.embedded.inspection import inspect
from shared.embedded.migrations import list_migrations
from shared.embedded.requirements import OLDEST
from shared.embedding.collection import Collection, describe_collections, vector_text
from shared.errors import AppError, ConfigurationError, DatabaseContractError, Forbidden, UnknownProvider
from shared.models import ANON, Vectors
from shared.providers.base import EmbeddingProvider
from shared.retry import RetryPolicy
from shared.settings import Settings, load_settings
from shared.wiring import get_database, get_database_url, get_provider, get_provider_for

EPILOG = """\
exit code: 0 every step works; 1 a step failed; 130 interrupted.

--json prints one object: `ok`, and `steps` in order, each with name, status (ok, failed or skipped) and message. A step
is skipped when a step that it needs failed.
"""

SETUP = ("settings", "database", "migrations", "roles", "collections", "anon", "provider")
PROOF = ("row written", "row embedded", "full-text search", "semantic search", "row deleted")
DONE = (
    "service_role wrote a row to a scratch table",
    "the row was claimed, and the vector of the provider was saved with it",
    "anon finds the row by a word of its text",
    "anon finds the row by the vector of a query",
    "the row is gone, and the scratch table with it",
)
DOCUMENT, QUERY = "Ten violins play a slow waltz.", "waltz"
# Seconds in which the provider must answer. They are many, because the model may have to be loaded first.
PROVIDER_SECONDS = 60.0
ONE_TRY = RetryPolicy(max_attempts=1, max_seconds=PROVIDER_SECONDS)
MIGRATE = "run scripts/migrate.py"
POOLINGS = {
    Pooling.DIRECT: "a direct connection",
    Pooling.TRANSACTION: (
        "through a connection pooler in transaction mode: every command works; statements of your own that need a "
        "session, such as LISTEN, need a direct connection"
    ),
    Pooling.SESSION: (
        "through a connection pooler in session mode: every command works; each connection of a program reserves a "
        "connection of the pool, so use fewer (--workers) than the pool has, or use transaction mode"
    ),
}


@dataclass(frozen=True, slots=True)
class Step:
    """The result of a step; `status` is ok, failed or skipped."""

    name: str
    status: str
    message: str


@dataclass(slots=True)
class Report:
    """The finished steps. Each is printed when it ends, unless --json is set."""

    as_json: bool
    steps: list[Step] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every step works."""
        return all(step.status == "ok" for step in self.steps)

    def add(self, name: str, status: str, message: str) -> None:
        """Record a step, and print it for a person."""
        self.steps.append(Step(name, status, message))
        if not self.as_json:
            print(f"{status:<8}{name:<18}" + message.replace("\n", f"\n{'':<26}"), flush=True)

    def check(self, name: str, check: Callable[[], str]) -> bool:
        """Run a check, which returns its result or raises an error; returns whether it succeeded."""
        try:
            self.add(name, "ok", check())
        except AppError as error:
            self.add(name, "failed", error.message)
            return False
        return True

    def skip(self, names: Sequence[str], needed: str) -> None:
        """Record steps as skipped."""
        for name in names:
            self.add(name, "skipped", f"needs: {needed}")


@dataclass(slots=True)
class Installation:
    """The results of earlier steps, which later steps need."""

    settings: Settings
    stack: ExitStack
    facts: dict[str, Any] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    database: Database | None = None
    collections: list[str] = field(default_factory=list)
    provider: EmbeddingProvider | None = None
    vectors: tuple[Vectors, Vectors] | None = None

    def open(self) -> str:
        """Connect, and read versions, roles and applied migrations."""
        settings = self.settings
        if settings.supabase_url is None and settings.database_url is None:
            # This starts the embedded server and applies missing migrations, as in every other command.
            self.database = self.stack.enter_context(get_database(settings))
        if settings.supabase_url is None or settings.database_url is not None:
            found = self._look(get_database_url(settings))
        if settings.supabase_url is not None:
            self.database = self.stack.enter_context(get_database(settings))
            self.facts = self.database.call_scalar("describe_installation")
            # Compare names and not versions: in a project with migrations of its own, the copied files have other versions.
            core = {one.name for one in list_migrations() if one.collection is None}
            self.lacking = sorted(core - set(self.facts["migrations"]))
            found = "through the project's API" + (", and by DATABASE_URL" if settings.database_url else "")
        if self.facts:
            check_versions(self.facts["server_version"], self.facts["vector"])
        server = f"PostgreSQL {self.facts['server']}, pgvector {self.facts['vector']}, " if self.facts else ""
        return server + found

    def _look(self, url: SecretStr) -> str:
        found = inspect(url)
        self.lacking, self.facts = found.lacking, found.facts
        return "the embedded server" if self.settings.database_url is None else POOLINGS[found.pooling]

    def check_migrations(self) -> str:
        """Whether all migrations of this version are applied."""
        if self.lacking:
            raise DatabaseContractError(f"missing: {', '.join(self.lacking)}; {MIGRATE} or `supabase db push`")
        return "up to date"

    def check_roles(self) -> str:
        """Whether the API roles exist, the connection may act as them, and service_role sees every row."""
        problems = []
        for name, role in self.facts["roles"].items():
            if role is None:
                problems.append(f"the role {name} is missing; {MIGRATE} as a user who may create roles")
            elif not role["granted"]:
                problems.append(f"the user of the connection cannot act as {name}; grant it: grant {name} to THE_USER;")
            elif name == "service_role" and not role["sees_tracked_rows"]:
                problems.append(
                    "service_role is subject to row level security; alter role service_role bypassrls; "
                    "or track each table again, which gives it a policy"
                )
        if problems:
            raise DatabaseContractError("\n".join(problems))
        if self.database is None:
            self.database = self.stack.enter_context(get_database(self.settings))
        return "anon, authenticated and service_role are there and granted"

    def check_collections(self) -> str:
        """Whether rows of every tracked table can be read."""
        assert self.database is not None
        found = describe_collections(self.database)
        self.collections = [row["collection"] for row in found]
        if broken := [f"{row['collection']}: {row['error']}" for row in found if row["error"]]:
            raise DatabaseContractError("\n".join(broken))
        if not found:
            return "no table is tracked yet; track one with select track_embeddings('table_name')"
        return "tracked: " + ", ".join(self.collections)

    def check_anon(self) -> str:
        """Check that anon can connect and cannot call the functions of service_role."""
        assert self.database is not None
        try:
            self.database.as_caller(ANON).call("ping_embeddings")
        except Forbidden:
            return "anon may not act as service_role"
        raise DatabaseContractError(
            "anon may call functions that are for service_role; check that SUPABASE_ANON_KEY is not the service role "
            f"key, then {MIGRATE}"
        )

    def check_provider(self) -> str:
        """Embed a text and a query, and compare their width with the models of the collections."""
        made = self.provider = self.stack.enter_context(closing(get_provider(self.settings)))
        price, is_set = made.price_per_million_tokens, self.settings.embedding_price_per_million is not None
        if price or (made.name == "openai" and not is_set):
            cost = f"less than ${max(50 * price / 1e6, 0.0001):.4f}" if price else "at a price that is not known"
            print(f"sending two short texts to {made.name} ({made.model}), {cost}", file=sys.stderr)
        deadline = Deadline(PROVIDER_SECONDS)
        document = made.embed([DOCUMENT], retry=ONE_TRY, deadline=deadline).vectors[0]
        query = made.embed([QUERY], "query", retry=ONE_TRY, deadline=deadline).vectors[0]
        self.vectors = document, query
        self._compare_models(made)
        return f"{made.name} answers with {document.shape[0]} dimensions ({made.model})"

    def _compare_models(self, made: EmbeddingProvider) -> None:
        problems = []
        for name in self.collections:
            assert self.database is not None
            for model in Collection(self.database, name).collection_models()[:1]:
                if model.name != made.model:
                    try:
                        get_provider_for(model, self.settings).close()
                    except UnknownProvider:
                        # Another program makes the vectors of this collection.
                        continue
                    except AppError as error:
                        problems.append(f"{name}: {error.message}")
                elif model.dimensions != made.dimensions:
                    problems.append(
                        f"{name}: the model {model.name} is registered with {model.dimensions} dimensions, but the "
                        f"provider answers with {made.dimensions}; set EMBEDDING_MODEL to another model"
                    )
        if problems:
            raise ConfigurationError("\n".join(problems))

    def prove(self, report: Report) -> None:
        """Write, embed, find and delete a row, in one transaction that is rolled back."""
        assert self.database is not None
        assert self.provider is not None
        assert self.vectors is not None
        document, query = self.vectors
        arguments = {
            "model": self.provider.model,
            "provider": self.provider.name,
            "document": DOCUMENT,
            "document_embedding": vector_text(document),
            "query": QUERY,
            "query_embedding": vector_text(query),
        }
        try:
            rows = self.database.call("check_installation", arguments)
        except AppError as error:
            rows = [{"step": PROOF[0], "error": error.message}]
        for row, done in zip(rows, DONE, strict=False):
            report.add(row["step"], "failed" if row["error"] else "ok", row["error"] or done)
        report.skip(PROOF[len(rows) :], PROOF[len(rows) - 1])


def check_versions(server: int, vector: str) -> None:
    """Raise DatabaseContractError if PostgreSQL or pgvector has an unsupported version although the migrations are applied.

    `supabase db push` applies them without the checks of scripts/migrate.py.
    """
    if server // 10_000 < OLDEST:
        raise DatabaseContractError(f"the server is PostgreSQL {server // 10_000}; use {OLDEST} or newer")
    if tuple(map(int, vector.split(".")[:2])) < (0, 8):
        raise DatabaseContractError(
            f"pgvector is {vector}; install 0.8 or newer on the server, then alter extension vector update;"
        )


def examine(report: Report) -> None:
    """Run every step whose requirements are met."""
    with ExitStack() as stack:
        try:
            installation = Installation(load_settings(), stack)
        except AppError as error:
            report.add("settings", "failed", error.message)
            report.skip((*SETUP[1:], *PROOF), "settings")
            return
        report.add("settings", "ok", describe(installation.settings))
        needed = None
        for name in SETUP[1:-1]:
            check = installation.open if name == "database" else getattr(installation, f"check_{name}")
            if needed is not None:
                report.skip([name], needed)
            elif not report.check(name, check) and name in ("database", "migrations", "roles"):
                needed = name
        if not report.check("provider", installation.check_provider):
            needed = needed or "provider"
        if needed is None:
            installation.prove(report)
        else:
            report.skip(PROOF, needed)


def describe(settings: Settings) -> str:
    """Name the configured database and provider, without secret values."""
    if settings.supabase_url:
        database = "a Supabase project (SUPABASE_URL)"
    elif settings.database_url:
        database = "the database of DATABASE_URL"
    else:
        database = f"the embedded database in {command.shown(settings.tonnetz_data_dir)}"
    return f"{database}, EMBEDDING_PROVIDER={settings.embedding_provider}"


def main() -> int:
    parser = command.parser(__doc__, json="print the steps as JSON on stdout")
    parser.epilog = EPILOG
    report = Report(parser.parse_args().json)
    examine(report)
    if report.as_json:
        print(json.dumps({"ok": report.ok, "steps": [asdict(step) for step in report.steps]}))
    return 0 if report.ok else 1


if __name__ == "__main__":
    command.run(main)
