"""Tests servers that fail, stall or are down, over real HTTP; every case for each protocol."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.deadline import Deadline
from shared.errors import (
    Interrupted,
    ProviderContractError,
    ProviderError,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.retry import Retrier, RetryPolicy
from tests.protocol_server import ProtocolServer
from tests.providers.cases import ONCE, both, texts
from tests.providers.conftest import FAST, Connect


@both
@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("status", {"status": 500}),
        ("status", {"status": 503}),
        ("status", {"status": 408}),
        ("unavailable", {"retry_after": 0.05}),
        ("html", {}),
        ("reset", {}),
        ("half", {}),
        ("deep", {}),
        ("rate_limit", {"retry_after": 0.05}),
        ("rate_limit", {}),
    ],
)
def test_a_temporary_failure_is_retried(
    kind: str, fault: str, options: dict[str, Any], server: ProtocolServer, connect: Connect
) -> None:
    server.fail(fault, times=2, **options)
    result = connect(kind).embed(texts(5))
    assert result.calls == 3
    assert not result.errors
    assert server.too_soon == 0


@both
@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("status", {"status": 503}, ProviderUnavailable),
        ("html", {}, ProviderUnavailable),
        ("reset", {}, ProviderUnavailable),
        ("half", {}, ProviderUnavailable),
        ("deep", {}, ProviderUnavailable),
        ("rate_limit", {"retry_after": 0.01}, ProviderRateLimited),
        ("status", {"status": 408}, ProviderTimeout),
    ],
)
def test_a_lasting_failure_is_reported_after_the_last_attempt(
    kind: str, fault: str, options: dict[str, Any], error: type[ProviderError], server: ProtocolServer, connect: Connect
) -> None:
    server.fail(fault, times=None, **options)
    with pytest.raises(error, match=r"127\.0\.0\.1"):
        connect(kind).embed(texts(5), isolate=True)
    assert len(server.calls) == FAST.max_attempts


@both
@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [("status", {"status": 403}, ProviderRejected), ("status", {"status": 405}, ProviderRejected)],
)
def test_a_final_failure_is_not_retried_nor_halved(
    kind: str, fault: str, options: dict[str, Any], error: type[ProviderError], server: ProtocolServer, connect: Connect
) -> None:
    server.fail(fault, times=None, **options)
    with pytest.raises(error):
        connect(kind).embed(texts(50), isolate=True)
    assert len(server.calls) == 1


def test_an_exceeded_quota_is_distinguished_from_a_rate_limit(server: ProtocolServer, connect: Connect) -> None:
    server.fail("quota", times=None)
    with pytest.raises(ProviderQuotaExceeded, match="billing"):
        connect("openai").embed(texts(50), isolate=True)
    assert len(server.calls) == 1


@both
@pytest.mark.parametrize(("seconds", "as_date"), [(1.0, False), (1.5, True)])
def test_a_retry_after_delays_every_worker(
    kind: str, seconds: float, as_date: bool, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("rate_limit", every=3, times=2, retry_after=seconds, as_date=as_date)
    provider = connect(kind)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: provider.embed(texts(3)), range(24)))
    assert sum(result.calls for result in results) == 24 + 2 == len(server.calls)
    assert server.too_soon == 0


@both
def test_workers_without_a_shared_retrier_ignore_the_retry_after(
    kind: str, server: ProtocolServer, connect: Connect
) -> None:
    server.latency = 0.15
    server.fail("rate_limit", times=1, retry_after=5)
    with pytest.raises(ProviderRateLimited):
        connect(kind, retrier=Retrier(ONCE)).embed(["first"])
    time.sleep(0.6)
    connect(kind, retrier=Retrier(ONCE)).embed(["second"])
    assert server.too_soon == 1


@both
def test_a_stop_ends_a_retry_after_wait_at_once(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("rate_limit", times=None, retry_after=30)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        connect(kind).embed(["a"], retry=RetryPolicy(), stop=stop)
    assert time.monotonic() - begun < 10


@both
def test_an_answer_that_comes_byte_by_byte_is_a_timeout(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("dribble", times=None, seconds=0.05)
    with pytest.raises(ProviderTimeout):
        connect(kind, timeout=0.5, retrier=Retrier(ONCE)).embed(["a"])


@both
def test_an_endless_answer_is_cancelled(
    kind: str, server: ProtocolServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.providers.answer_bounds.MOST_BYTES", 4 * 2**20)
    server.fail("endless", times=None)
    with pytest.raises(ProviderContractError):
        connect(kind).embed(["a"])


@both
def test_a_slow_answer_is_a_timeout(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("slow", times=None, seconds=1)
    with pytest.raises(ProviderTimeout):
        connect(kind, timeout=0.1, retrier=Retrier(ONCE)).embed(["a"])


@both
@pytest.mark.parametrize(("fault", "seconds"), [("slow", 5), ("dribble", 0.05)])
def test_a_deadline_ends_the_request_itself(
    kind: str, fault: str, seconds: float, server: ProtocolServer, connect: Connect
) -> None:
    server.fail(fault, times=None, seconds=seconds)
    begun = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="did not answer within") as raised:
        connect(kind).embed(["a"], deadline=Deadline(0.5))
    assert raised.value.retry_after
    assert time.monotonic() - begun < 2
    assert len(server.calls) == 1


@both
def test_a_width_is_asked_for_within_the_deadline(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("slow", times=None, seconds=5)
    begun = time.monotonic()
    with pytest.raises(ProviderUnavailable):
        connect(kind, model="house-model").describe(Deadline(0.5))
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("kind", "where", "names"),
    [
        ("openai", {"base_url": "http://127.0.0.1:1/v1"}, ["127.0.0.1:1", "OPENAI_BASE_URL"]),
        ("ollama", {"url": "http://127.0.0.1:1"}, ["127.0.0.1:1", "OLLAMA_URL", "ollama serve"]),
    ],
)
def test_a_stopped_server_is_named_with_the_fix(
    kind: str, where: dict[str, str], names: Sequence[str], connect: Connect
) -> None:
    with pytest.raises(ProviderUnavailable) as raised:
        connect(kind, **where, retrier=Retrier(ONCE)).embed(["a"])
    assert all(name in str(raised.value) for name in names)
