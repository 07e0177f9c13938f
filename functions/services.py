"""The objects that the routes of one process share: settings, database, provider and the services over them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from functions.http.metrics import Metrics
    from shared.database.base import Database
    from shared.embedding.embedding_job import EmbeddingJob
    from shared.embedding.health import HealthService
    from shared.embedding.model_providers import ModelProviders
    from shared.embedding.provider_check import ProviderCheck
    from shared.embedding.rows import RowEmbedder
    from shared.embedding.run_queue import RunQueue
    from shared.embedding.runs import Dispatcher, Job, Runs
    from shared.embedding.texts import EmbeddingService
    from shared.providers.base import EmbeddingProvider
    from shared.providers.budget import DailyBudget
    from shared.search.map import MapService
    from shared.search.search import SearchService
    from shared.settings import Settings
    from shared.synonyms.generation import SynonymJob, SynonymRequests
    from shared.synonyms.generators.base import SynonymGenerator
    from shared.synonyms.service import SynonymService
    from shared.synonyms.store import SynonymStore
    from shared.tokens import TokenVerifier

# The most database connections; further requests wait for one. PostgreSQL allows 100 connections in all by default.
SERVER_CONNECTIONS = 16
LAMBDA_CONNECTIONS = 2
# How many requests with many texts the in-process engine embeds at the same time; further requests wait. The engine
# joins the texts of all of them.
CALLERS_IN_PROCESS = 64
# How many threads embed single texts. They are few, so that under load many texts share a call, and equal texts are
# embedded once.
JOINING_IN_PROCESS = 2
# Seconds between checks for tags whose synonyms are due for a retry.
SYNONYM_DRAIN_SECONDS = 60.0
Value = TypeVar("Value")


class lazy(Generic[Value]):
    """A property that is computed once, also if several threads read it first. Later reads take no lock."""

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self._making = threading.RLock()

    def __get__(self, instance: object, owner: type[Any]) -> Value:
        made, name = vars(instance), self._make.__name__
        with self._making:
            if name not in made:
                made[name] = self._make(instance)
        value: Value = made[name]
        return value


class Services:
    """Each object is created, and its module imported, at first use, so that a function loads only what it needs.

    `long_lived`: a server with many concurrent callers, which joins their texts and runs tasks in its own threads.
    Otherwise each process serves one request at a time, as on Lambda. `open_on_loopback`: without FUNCTIONS_API_KEY
    answer every request, because only this machine can send one. `console`: serve the console if CONSOLE is unset.
    Settings, database and provider that the caller passes are not closed here.
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
        # A lazy property stores its value here, so these objects count as created.
        vars(self).update({name: value for name, value in given.items() if value is not None})
        self.long_lived = long_lived
        self.open_on_loopback = open_on_loopback
        self.drain_every = drain_every
        self._console = console
        self._run_queues: list[RunQueue] = []
        # Workers use the database and the provider, so they are closed first.
        self._workers = ExitStack()
        self._resources = ExitStack()

    @lazy
    def settings(self) -> Settings:
        """The settings; raises ConfigurationError naming what is wrong with them."""
        from shared.settings import load_settings

        return load_settings()

    @lazy
    def lambda_logs(self) -> bool:
        """Makes a function on Lambda write its logs as JSON lines; a server does this itself, before it starts."""
        from shared.logs import configure_logs

        configure_logs(self.settings.log_level, self.settings.secrets())
        return True

    @lazy
    def database(self) -> Database:
        """The database, called as service_role; a call ends before the request that waits for it has to end."""
        from shared.database.limits import REQUEST
        from shared.wiring import get_database

        connections = SERVER_CONNECTIONS if self.long_lived else LAMBDA_CONNECTIONS
        database = get_database(self.settings, max_connections=connections, limits=REQUEST)
        return self._resources.enter_context(closing(database))

    @lazy
    def provider(self) -> EmbeddingProvider:
        """The embedding provider."""
        from shared.wiring import get_provider

        return self._resources.enter_context(closing(get_provider(self.settings)))

    @lazy
    def providers(self) -> ModelProviders:
        """The provider of each model that a collection has."""
        from shared.embedding.model_providers import ModelProviders
        from shared.wiring import get_provider_for

        providers = ModelProviders(
            lambda: self.provider, lambda spec: get_provider_for(spec, self.settings), budget=self.budget
        )
        return self._resources.enter_context(closing(providers))

    @lazy
    def budget(self) -> DailyBudget | None:
        """The budget of the day, if there is one. Its sum is recorded after the workers end, before the database closes."""
        from shared.wiring import get_budget

        if budget := get_budget(self.settings, lambda: self.database, at_once=not self.long_lived):
            self._workers.callback(budget.flush)
        return budget

    @property
    def provider_is_made(self) -> bool:
        """Whether the provider was created already; reading this does not create it."""
        return "provider" in vars(self)

    @lazy
    def callers(self) -> TokenVerifier:
        """Checks bearer tokens."""
        from shared.tokens import TokenVerifier

        settings = self.settings
        return TokenVerifier(
            jwt_secret=settings.supabase_jwt_secret,
            anon_key=settings.supabase_anon_key,
            service_role_key=settings.supabase_service_role_key,
            functions_api_key=settings.functions_api_key,
            passes_on=settings.supabase_url is not None,
        )

    @lazy
    def embedding(self) -> EmbeddingService:
        """Embeds texts."""
        from shared.embedding.texts import EmbeddingService
        from shared.wiring import WORKERS

        in_process = self.settings.embedding_provider == "onnx"
        embedding = EmbeddingService(
            self.providers.for_model,
            joins=self.long_lived,
            workers=CALLERS_IN_PROCESS if in_process else WORKERS[self.settings.embedding_provider],
            joining_workers=JOINING_IN_PROCESS if in_process else None,
            observe=self.metrics.observe_batch if self.long_lived else None,
        )
        return self._workers.enter_context(closing(embedding))

    @lazy
    def metrics(self) -> Metrics:
        """The metrics of a long-lived server."""
        from functions.http.metrics import Metrics

        return Metrics(self)

    @lazy
    def search(self) -> SearchService:
        """Searches collections."""
        from shared.search.search import SearchService
        from shared.wiring import get_cache

        prefix = self.settings.embedding_query_prefix
        return SearchService(self.database, self.providers, get_cache(self.settings), query_prefix=prefix)

    @lazy
    def health(self) -> HealthService:
        """Asks whether the database answers."""
        from shared.embedding.health import HealthService

        return HealthService(lambda: self.database)

    @property
    def provider_check(self) -> ProviderCheck:
        """Asks whether the configured provider answers."""
        return self.providers.check()

    @lazy
    def maps(self) -> MapService:
        """Projects collections to two dimensions."""
        from shared.search.map import MapService

        return MapService(self.database)

    @property
    def serves_console(self) -> bool:
        """Whether the console is on: the value of CONSOLE, or this server's default if it is unset."""
        console = self.settings.console
        return self._console if console is None else console

    @property
    def needs_key(self) -> bool:
        """Whether routes require FUNCTIONS_API_KEY. Only a server for this machine without this key does not."""
        return self.settings.functions_api_key is not None or not self.open_on_loopback

    @property
    def has_generator(self) -> bool:
        """Whether a generator of synonyms is configured."""
        return self.settings.generation_provider is not None

    @lazy
    def upsert(self) -> RowEmbedder:
        """Embeds rows that a request names."""
        from shared.embedding.rows import RowEmbedder

        return RowEmbedder(self.database, self.providers)

    @lazy
    def runs(self) -> Runs:
        """Starts runs, executes them and keeps their records."""
        from shared.embedding.runs import Runs

        return Runs(self.database)

    @lazy
    def embedding_job(self) -> EmbeddingJob:
        """Embeds pending rows in the calling thread."""
        from shared.embedding.embedding_job import EmbeddingJob
        from shared.wiring import WORKERS

        return EmbeddingJob(
            self.database.for_work(),
            self.providers,
            WORKERS,
            wait_for_others=self.long_lived,
            observe=self.metrics.observe_run if self.long_lived else None,
        )

    @lazy
    def embedding_queue(self) -> RunQueue:
        """Embeds pending rows in a thread of a long-lived server."""
        return self._run_queue(self.embedding_job, self.drain_every)

    @lazy
    def worker_function(self) -> Dispatcher:
        """On Lambda, starts runs in the worker function."""
        from functions.http.invoke import WorkerFunction

        return WorkerFunction(self.settings.task_function)

    @property
    def embedding_dispatcher(self) -> Dispatcher:
        """The dispatcher of runs that embed pending rows."""
        return self.embedding_queue if self.long_lived else self.worker_function

    @property
    def synonym_dispatcher(self) -> Dispatcher:
        """The dispatcher of runs that generate synonyms."""
        return self.synonym_queue if self.long_lived else self.worker_function

    @lazy
    def generator(self) -> SynonymGenerator:
        """The model that writes synonyms; raises ConfigurationError if none is configured."""
        from shared.wiring import get_generator

        return self._resources.enter_context(closing(get_generator(self.settings)))

    @lazy
    def synonyms(self) -> SynonymService:
        """Synonyms of tags: search, read, edit."""
        from shared.synonyms.service import SynonymService
        from shared.wiring import get_cache

        answers = get_cache(self.settings, size=2048)
        return SynonymService(self.database, self.search, answers, embedder=lambda: self.upsert)

    @lazy
    def synonym_store(self) -> SynonymStore:
        """Tags and synonyms in the database."""
        from shared.synonyms.store import SynonymStore

        return SynonymStore(self.database)

    @lazy
    def synonym_requests(self) -> SynonymRequests:
        """Requests synonyms and starts the runs that generate them."""
        from shared.synonyms.generation import SynonymRequests

        return SynonymRequests(self.synonym_store, self.runs, self.synonym_dispatcher, has_generator=self.has_generator)

    @lazy
    def synonym_job(self) -> SynonymJob:
        """Generates synonyms in the calling thread."""
        from shared.synonyms.generation import SynonymJob

        return SynonymJob(self.synonym_store, lambda: self.generator, lambda: self.upsert)

    @lazy
    def synonym_queue(self) -> RunQueue:
        """Generates synonyms in a thread of its own, so that embedding never waits for it."""
        return self._run_queue(self.synonym_job, SYNONYM_DRAIN_SECONDS if self.has_generator else None)

    def _run_queue(self, job: Job, every: float | None) -> RunQueue:
        from shared.embedding.run_queue import RunQueue

        queue = self._workers.enter_context(closing(RunQueue(self.runs, job, every=every)))
        self._run_queues.append(queue)
        return queue

    def start_schedules(self) -> None:
        """Create the queues of runs; each then starts a run when work is due."""
        _ = self.embedding_queue, self.synonym_queue
        if self.has_generator:
            # Import these now, so that the first webhook does not wait for it.
            _ = self.generator, self.upsert, self.synonym_requests

    def stop_tasks(self) -> None:
        """Tell running tasks to release their rows. Safe in a signal handler, because it does not wait for the tasks."""
        for queue in self._run_queues:
            queue.stop()

    def close(self) -> None:
        """End tasks and workers, then close the provider and the database that were created here."""
        with self._resources:
            self._workers.close()


# Shared by the functions of one process. Creating it reads no settings and opens no connection.
SERVICES = Services()
