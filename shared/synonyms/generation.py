"""Have synonyms written for the tags that wait, one after the other, in the background.

Of low priority: while rows are being embedded anywhere, the generator rests, for both may need the same machine.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from shared.database.base import Database
from shared.embedding.rows import RowEmbedder
from shared.embedding.runs import SYNONYMS_TASK_NAME, Task
from shared.errors import (
    AppError,
    Interrupted,
    InvalidRequest,
    NotFound,
    ProviderContractError,
    ProviderCrashed,
    ProviderInputRejected,
    ProviderTimeout,
)
from shared.models import Tag
from shared.synonyms.service import embed_synonyms
from shared.synonyms.store import SynonymStore

if TYPE_CHECKING:
    from shared.synonyms.generators.base import SynonymGenerator

log = logging.getLogger(__name__)

# The generator is asked up to six times for one tag, each time for three minutes at most.
LEASE_SECONDS = 1200
REST_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0

# About this tag; another may do better. Any other failure would meet the next tag as well.
_ABOUT_THE_TAG = (ProviderContractError, ProviderCrashed, ProviderInputRejected, ProviderTimeout)
# Said often enough already: the generator has asked again, with the reason.
_FINAL = (ProviderContractError, ProviderInputRejected)


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """How a run ended: `embedded` tags were given synonyms, `failed` ones are tried again later or are failed, `stale` answers
    came for a name that the tag has no longer.
    """

    status: str = "completed"
    processed: int = 0
    embedded: int = 0
    failed: int = 0
    stale: int = 0
    error: str | None = None


class SynonymRunner:
    """Runs tasks in the calling thread: each writes synonyms until no tag waits."""

    def __init__(
        self,
        database: Database,
        generator: "Callable[[], SynonymGenerator]",
        upsert: Callable[[], RowEmbedder],
        *,
        rest_seconds: float = REST_SECONDS,
        on_start: Callable[[str], None] | None = None,
    ) -> None:
        self._store = SynonymStore(database)
        self._generator = generator
        self._upsert = upsert
        self._rest_seconds = rest_seconds
        self._on_start = on_start or (lambda _: None)

    def run(self, task: Task, stop: threading.Event | None = None) -> GenerationReport:
        """Write synonyms for every tag that waits; setting `stop` ends it after the one under way."""
        self._on_start(task.task_id)
        stop = stop or threading.Event()
        report = GenerationReport()
        model: str | None = None
        try:
            generator = self._generator()
            # Its waits end when the run does.
            generator = generator.with_retrier(generator.retrier.replace(stop=stop))
            model = generator.model
            with self._heartbeat(task.task_id, model, lambda: report):
                while not stop.is_set() and self._is_my_turn(stop):
                    tags = self._store.claim_synonym_tags(1, LEASE_SECONDS)
                    if not tags:
                        break
                    report = self._write(generator, tags[0], report)
            report = replace(report, status="interrupted" if stop.is_set() else "completed")
        except Interrupted:
            report = replace(report, status="interrupted")
        except AppError as error:
            log.warning("synonyms: %s", error.message)
            report = replace(report, status="failed", error=error.message)
        except Exception:
            log.exception("a run of the generator failed", extra={"fields": {"task_id": task.task_id}})
            report = replace(report, status="failed", error="internal error; see the log")
        self._record(task.task_id, model, report)
        return report

    def _write(self, generator: "SynonymGenerator", tag: Tag, report: GenerationReport) -> GenerationReport:
        report = replace(report, processed=report.processed + 1)
        try:
            synonyms = generator.generate(tag)
            outcome, row_id = self._store.store_generated_synonyms(tag, synonyms, generator.model)
        except _ABOUT_THE_TAG as error:
            self._store.fail_synonym_tag(tag, error.message, final=isinstance(error, _FINAL))
            log.warning("no synonyms for the %s tag %s: %s", tag.tag_type, tag.tag_id, error.message)
            return replace(report, failed=report.failed + 1)
        except AppError:
            # Nothing is wrong with this tag: whoever comes next may have it at once.
            self._store.release_synonym_tag(tag)
            raise
        if row_id is not None:
            embed_synonyms(self._upsert, row_id)
        return replace(
            report, embedded=report.embedded + (outcome == "stored"), stale=report.stale + (outcome == "stale")
        )

    def _is_my_turn(self, stop: threading.Event) -> bool:
        """Wait until nobody embeds; False where the run is to end instead."""
        while self._store.embedding_is_under_way():
            if stop.wait(self._rest_seconds):
                return False
        return True

    @contextmanager
    def _heartbeat(self, task_id: str, model: str, report: Callable[[], GenerationReport]) -> Iterator[None]:
        """Reports on the run while a model thinks: silence would be taken for a crash."""
        done = threading.Event()

        def beat() -> None:
            while True:
                self._record(task_id, model, replace(report(), status="running"))
                if done.wait(HEARTBEAT_SECONDS):
                    return

        thread = threading.Thread(target=beat, name="synonyms-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _record(self, task_id: str, model: str | None, report: GenerationReport) -> None:
        counts = asdict(report)
        status = counts.pop("status")
        try:
            self._store.record_generation_run(task_id, model, status, counts)
        except AppError as error:
            log.warning("could not report on task %s: %s", task_id, error.message)


class SynonymTaskService:
    """Asks for synonyms, and has a run under way or waiting that writes them: `dispatch` returns at once."""

    def __init__(self, database: Database, dispatch: Callable[[Task], None], *, has_generator: bool) -> None:
        self._store = SynonymStore(database)
        self._dispatch = dispatch
        self._has_generator = has_generator
        self._waiting: str | None = None
        self._lock = threading.Lock()

    @property
    def has_generator(self) -> bool:
        """Whether anybody is there to write synonyms."""
        return self._has_generator

    def start(
        self, tag_type: str | None = None, tag_ids: list[int] | None = None, *, force: bool = False
    ) -> tuple[str | None, int]:
        """(task_id, tags requested); no task where no tag needs synonyms. Raises InvalidRequest without a generator."""
        if not self._has_generator:
            raise InvalidRequest(
                "no generator is set up on this server: set GENERATION_PROVIDER to ollama or openai, "
                "or write synonyms by hand with POST /api/synonyms"
            )
        requested = self._store.request_synonyms(tag_type, tag_ids, force=force)
        if requested == 0:
            return None, 0
        with self._lock:
            # A run that has not begun will find these tags too: a thousand webhooks make one run.
            if self._waiting is not None:
                return self._waiting, requested
            task = Task(self._store.record_generation_run(None, None, "queued"), name=SYNONYMS_TASK_NAME)
            try:
                self._waiting = task.task_id
                self._dispatch(task)
            except AppError as error:
                self._waiting = None
                self._store.record_generation_run(task.task_id, None, "failed", {"error": error.message})
                raise
            return task.task_id, requested

    def begun(self, task_id: str) -> None:
        """The run reads the queue from here on: a later request needs another."""
        with self._lock:
            if self._waiting == task_id:
                self._waiting = None

    def drain(self, _: Database) -> Task | None:
        """A task for tags that wait, such as those that were to be tried again; None where there are none."""
        try:
            coverage = self._store.synonym_coverage()
        except NotFound:
            # The database was set up without mir_synonyms.
            return None
        if not any(row["ready"] for row in coverage):
            return None
        return Task(self._store.record_generation_run(None, None, "queued"), name=SYNONYMS_TASK_NAME)
