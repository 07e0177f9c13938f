"""GET /metrics of the long-lived server, as Prometheus text."""

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from functions.http.auth import NeedsKey
from functions.http.routes import Route
from functions.services import Services
from shared.embedding.collection import Collection, list_embedding_collections
from shared.errors import AppError
from shared.models import BackfillReport

SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


# Leave out the extra series with the creation time of each metric.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics(Collector):
    """The metrics of one process.

    Requests are counted by the template of their route, so that each new path does not create a new series.
    """

    def __init__(self, services: Services) -> None:
        registry = CollectorRegistry()
        self._requests = Counter("tonnetz_requests", "Requests.", ["method", "route", "status"], registry=registry)
        self._seconds = Histogram(
            "tonnetz_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self._batch = Histogram(
            "tonnetz_batch_texts", "Texts of an embedding request.", buckets=TEXTS, registry=registry
        )
        self._tokens = Counter("tonnetz_tokens", "Tokens embedded.", ["source"], registry=registry)
        self._cost = Counter("tonnetz_cost_usd", "Cost of the tokens embedded.", ["source"], registry=registry)
        self._rows = Counter("tonnetz_rows", "Rows of tasks.", ["outcome"], registry=registry)
        registry.register(self)
        self._services = services
        self.router = APIRouter(tags=["metrics"], dependencies=[NeedsKey], route_class=Route)

        @self.router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
        def metrics() -> Response:
            """Return requests, latency, batches, queues, tokens and cost for Prometheus."""
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(method if route != "other" else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_batch(self, texts: int, tokens: int, _: float) -> None:
        """Count the texts of one request that were embedded."""
        self._batch.observe(texts)
        self._tokens.labels("request").inc(tokens)
        self._cost.labels("request").inc(tokens * self._services.provider.price_per_million_tokens / 1e6)

    def observe_run(self, report: BackfillReport) -> None:
        """Count the rows, tokens and cost of a task."""
        self._tokens.labels("task").inc(report.tokens)
        self._cost.labels("task").inc(report.cost_usd)
        for outcome in ("embedded", "failed", "stale"):
            self._rows.labels(outcome).inc(getattr(report, outcome))

    def collect(self) -> Iterator[Metric]:
        """Read the gauges, at each request for /metrics: waiting texts, and rows in the queues."""
        waiting = GaugeMetricFamily("tonnetz_waiting_texts", "Texts of accepted requests that are not yet embedded.")
        waiting.add_metric([], self._services.embedding.waiting)
        yield waiting
        queued = GaugeMetricFamily("tonnetz_queue_rows", "Rows in a queue.", labels=["collection", "state"])
        try:
            database = self._services.database
            for name in list_embedding_collections(database):
                state = Collection(database, name).embedding_queue()
                for label in ("ready", "leased", "waiting", "failed"):
                    queued.add_metric([name, label], getattr(state, label))
        except AppError:
            # Leave the series out, because an old number would be wrong.
            return
        yield queued

    def describe(self) -> Iterator[Metric]:
        """Describe no metric, so that registering the collector does not query the database."""
        return iter(())
