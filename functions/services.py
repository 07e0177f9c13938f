"""What one process makes once, when it is first needed: settings, database, provider and the services over them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from shared.database.base import Database
    from shared.embedding.health import HealthService
    from shared.embedding.provider_check import ProviderCheck
    from shared.embedding.rows import RowEmbedder
    from shared.embedding.run_queue import TaskThread
    from shared.embedding.runs import Task, TaskRunner, TaskService
    from shared.embedding.texts import EmbeddingService, Observe
    from shared.embedding.webhooks import WebhookService
    from shared.models import BackfillReport
    from shared.providers.base import EmbeddingProvider
    from shared.search.map import MapService
    from shared.search.search import SearchService
    from shared.settings import Settings
    from shared.synonyms.generation import SynonymRunner, SynonymTaskService
    from shared.synonyms.generators.base import SynonymGenerator
    from shared.synonyms.service import SynonymService
    from shared.synonyms.store import SynonymStore
    from shared.tokens import TokenVerifier

log = logging.getLogger(__name__)

Value = TypeVar("Value")

# One connection for each of the threads that FastAPI runs handlers in, with some left for tasks, would be 50;
# a PostgreSQL has 100 for everybody. Requests beyond wait for their turn.
SERVER_CONNECTIONS = 16
LAMBDA_CONNECTIONS = 2

# How often tags are looked for that are to be tried again.
SYNONYM_DRAIN_SECONDS = 60.0


class _Lazy(Generic[Value]):
    """An attribute that is made at first use, once, whichever thread comes first; a failure is tried again."""

    def __init__(self, make: Callable[[Process], Value]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, process: Process, owner: type) -> Value:
        made = process.made.get(self._name)
        if made is None:
            with process.locks.setdefault(self._name, threading.Lock()):
                made = process.made.get(self._name)
                if made is None:
                    made = process.made[self._name] = self._make(process)
        value: Value = made  # type: ignore[assignment]
        return value


class Process:
    """Everything is made lazily, and nothing is imported before: a function pays for what it uses.

    `long_lived`: a server with many callers at once, which joins their texts, keeps threads and runs tasks
    itself; else each instance serves one request at a time, as on Lambda. `open_on_loopback`: without
    FUNCTIONS_API_KEY serve everyone, because only this machine can ask. `console`: serve it where CONSOLE is
    unset. Tests give settings, database and
    provider of their own.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database: Database | None = None,
        provider: EmbeddingProvider | None = None,
        long_lived: bool = False,
        open_on_loopback: bool = False,
        console: bool = False,
        drain_every: float | None = None,
    ) -> None:
        given = {"settings": settings, "database": database, "provider": provider}
        self.made: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        self.locks: dict[str, threading.Lock] = {}
        self._borrowed = set(self.made)
        self.long_lived = long_lived
        self.open_on_loopback = open_on_loopback
        self.drain_every = drain_every
        self._console = console
        self.observe_batch: Observe | None = None
        self.observe_run: Callable[[BackfillReport], None] | None = None

    @_Lazy
    def settings(self) -> Settings:
        """The settings; raises ConfigurationError naming what is wrong with them."""
        from shared.settings import load_settings

        return load_settings()

    @_Lazy
    def lambda_logs(self) -> bool:
        """Logs in our form; a server configures its own before it starts."""
        from shared.logs import configure_logs

        configure_logs(self.settings.log_level, self.settings.secrets())
        return True

    @_Lazy
    def database(self) -> Database:
        """The database, as service_role."""
        from shared.wiring import get_database

        connections = SERVER_CONNECTIONS if self.long_lived else LAMBDA_CONNECTIONS
        return get_database(self.settings, max_connections=connections)

    @_Lazy
    def provider(self) -> EmbeddingProvider:
        """The embedding provider."""
        from shared.wiring import get_provider

        return get_provider(self.settings)

    @property
    def provider_is_made(self) -> bool:
        """Whether the provider is there already."""
        return "provider" in self.made

    @_Lazy
    def callers(self) -> TokenVerifier:
        """Who is behind a bearer token."""
        from shared.tokens import TokenVerifier

        settings = self.settings
        return TokenVerifier(
            jwt_secret=settings.supabase_jwt_secret,
            anon_key=settings.supabase_anon_key,
            service_role_key=settings.supabase_service_role_key,
            functions_api_key=settings.functions_api_key,
            passes_on=settings.supabase_url is not None,
        )

    @_Lazy
    def embedding(self) -> EmbeddingService:
        """Texts to vectors."""
        from shared.embedding.texts import EmbeddingService
        from shared.wiring import default_workers

        return EmbeddingService(
            lambda: self.provider,
            joins=self.long_lived,
            workers=default_workers(self.settings),
            observe=lambda *counts: self.observe_batch(*counts) if self.observe_batch else None,
        )

    @_Lazy
    def search(self) -> SearchService:
        """Queries to rows."""
        from shared.wiring import get_search

        return get_search(self.settings, database=self.database, provider=lambda: self.provider)

    @_Lazy
    def health(self) -> HealthService:
        """Is the database there."""
        from shared.embedding.health import HealthService

        return HealthService(lambda: self.database)

    @_Lazy
    def provider_check(self) -> ProviderCheck:
        """Is the provider there."""
        from shared.embedding.provider_check import ProviderCheck

        return ProviderCheck(lambda: self.provider)

    @_Lazy
    def maps(self) -> MapService:
        """Collections in two dimensions."""
        from shared.search.map import MapService

        return MapService(self.database)

    @property
    def serves_console(self) -> bool:
        """Whether the console is on: CONSOLE decides, and where it is unset, who serves."""
        console = self.settings.console
        return self._console if console is None else console

    @property
    def needs_key(self) -> bool:
        """Whether routes ask for FUNCTIONS_API_KEY; where it is unset, only a server for this machine does not."""
        return self.settings.functions_api_key is not None or not self.open_on_loopback

    @property
    def has_generator(self) -> bool:
        """Whether somebody is set up who writes synonyms."""
        return "generator" in self.made or self.settings.generation_provider is not None

    @_Lazy
    def upsert(self) -> RowEmbedder:
        """Named rows to vectors."""
        from shared.embedding.rows import RowEmbedder

        return RowEmbedder(self.database, self.provider, keeps_late_answers=self.long_lived)

    @_Lazy
    def webhooks(self) -> WebhookService:
        """Written rows to vectors."""
        from shared.embedding.webhooks import WebhookService

        return WebhookService(self.database, self.upsert)

    @_Lazy
    def task_runner(self) -> TaskRunner:
        """Runs a task in the calling thread."""
        from shared.embedding.runs import TaskRunner
        from shared.wiring import default_workers

        return TaskRunner(
            self.database,
            lambda: self.provider,
            workers=default_workers(self.settings),
            observe=lambda report: self.observe_run(report) if self.observe_run else None,
        )

    @_Lazy
    def task_thread(self) -> TaskThread:
        """Runs tasks beside the requests of a long-lived server."""
        from shared.embedding.run_queue import TaskThread

        return TaskThread(lambda: self.database, lambda: self.task_runner, drain_every=self.drain_every)

    @_Lazy
    def tasks(self) -> TaskService:
        """Starts tasks, and tells how they are."""
        from shared.embedding.runs import TaskService

        return TaskService(self.database, self._dispatch)

    @_Lazy
    def generator(self) -> SynonymGenerator:
        """Who writes synonyms; raises ConfigurationError where nobody is set."""
        from shared.wiring import get_generator

        return get_generator(self.settings)

    @_Lazy
    def synonyms(self) -> SynonymService:
        """Tags and what people call them."""
        from shared.synonyms.service import SynonymService
        from shared.wiring import get_answer_cache

        return SynonymService(self.database, self.search, get_answer_cache(self.settings), upsert=lambda: self.upsert)

    @_Lazy
    def synonym_store(self) -> SynonymStore:
        """Tags and synonyms, as the database tells of them."""
        from shared.synonyms.store import SynonymStore

        return SynonymStore(self.database)

    @_Lazy
    def synonym_tasks(self) -> SynonymTaskService:
        """Asks the generator for synonyms."""
        from shared.synonyms.generation import SynonymTaskService

        return SynonymTaskService(self.database, self._dispatch, has_generator=self.has_generator)

    @_Lazy
    def synonym_runner(self) -> SynonymRunner:
        """Has synonyms written in the calling thread."""
        from shared.synonyms.generation import SynonymRunner

        return SynonymRunner(
            self.database,
            lambda: self.generator,
            lambda: self.upsert,
            on_start=lambda run: self.synonym_tasks.begun(run),
        )

    @_Lazy
    def synonym_thread(self) -> TaskThread:
        """Has synonyms written beside the requests, and beside the tasks, which never wait for it."""
        from shared.embedding.run_queue import TaskThread

        return TaskThread(
            lambda: self.database,
            lambda: self.synonym_runner,
            drain_every=SYNONYM_DRAIN_SECONDS if self.synonym_tasks.has_generator else None,
            drain=lambda database: self.synonym_tasks.drain(database),
        )

    def _dispatch(self, task: Task) -> None:
        from shared.embedding.runs import SYNONYMS_TASK_NAME

        if self.long_lived:
            thread = self.synonym_thread if task.name == SYNONYMS_TASK_NAME else self.task_thread
            thread.dispatch(task)
            return
        if self.settings.task_function is None:
            raise ConfigurationError(
                "TASK_FUNCTION: is needed to run tasks on Lambda: the name of the function with functions.worker.handler"
            )
        from functions.http.invoke import invoke_task

        invoke_task(self.settings.task_function, task)

    def stop_tasks(self) -> None:
        """Have tasks under way hand back their rows; safe in a signal handler, waits for nothing."""
        for name in ("task_thread", "synonym_thread"):
            made = self.made.get(name)
            if made is not None:
                made.stop()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Finish and give back what was made here, tasks first."""
        for name in (
            "task_thread",
            "synonym_thread",
            "generator",
            "embedding",
            "provider",
            "database",
        ):
            made = self.made.get(name)
            if made is not None and name not in self._borrowed:
                made.close()  # type: ignore[attr-defined]
                del self.made[name]


# What the functions of one process share. Making it reads nothing and connects to nothing.
PROCESS = Process()
