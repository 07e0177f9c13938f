"""Servers that fail, lie or refuse, over real HTTP; every case for each protocol."""

import logging
import math
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from shared.errors import (
    ConfigurationError,
    Interrupted,
    ProviderContractError,
    ProviderError,
    ProviderInputRejected,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderWidthError,
)
from shared.models import EmbeddingModel
from shared.retry import Retrier, RetryPolicy
from tests.protocol_server import ProtocolServer
from tests.protocol_vectors import embed
from tests.providers.conftest import FAST, SIMULATED, Connect

both = pytest.mark.parametrize("kind", SIMULATED)
ONCE = RetryPolicy(max_attempts=1)


def texts(count: int) -> list[str]:
    return [f"text number {index}" for index in range(count)]


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
def test_a_passing_failure_is_retried(
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
def test_a_lasting_failure_is_named_after_the_last_attempt(
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


@both
@pytest.mark.parametrize("depth", [60, 150, 500, 990, 1500])
def test_an_answer_nested_at_any_depth_is_an_error_of_ours(
    kind: str, depth: int, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("deep", times=None, depth=depth)
    with pytest.raises((ProviderContractError, ProviderUnavailable)):
        connect(kind).embed(texts(1))


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_told_by_its_host(
    kind: str, status: int, server: ProtocolServer, connect: Connect
) -> None:
    with ProtocolServer() as other:
        place = other.url.replace("127.0.0.1", "localhost")
        server.fail("redirect", times=None, status=status, to=f"{place}/v1/embeddings?token=hidden")
        setting = "OPENAI_BASE_URL" if kind == "openai" else "OLLAMA_URL"
        with pytest.raises(ProviderRejected, match=rf"points to localhost \(HTTP {status}\).*{setting}") as raised:
            connect(kind).embed(texts(5), isolate=True)
        assert "hidden" not in "".join(traceback.format_exception(raised.value))
        assert other.calls == []
    assert len(server.calls) == 1


@both
@pytest.mark.parametrize("to", ["/elsewhere", "http://[", "", "http://user:hidden@/"])
def test_a_redirect_to_nowhere_in_particular_is_told_as_well(
    kind: str, to: str, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("redirect", times=None, to=to)
    with pytest.raises(ProviderRejected, match="points to another address"):
        connect(kind).embed(texts(5), isolate=True)


def test_quota_is_told_from_rate(server: ProtocolServer, connect: Connect) -> None:
    server.fail("quota", times=None)
    with pytest.raises(ProviderQuotaExceeded, match="billing"):
        connect("openai").embed(texts(50), isolate=True)
    assert len(server.calls) == 1


@both
@pytest.mark.parametrize(("seconds", "as_date"), [(1.0, False), (1.5, True)])
def test_a_told_wait_holds_back_every_worker(
    kind: str, seconds: float, as_date: bool, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("rate_limit", every=3, times=4, retry_after=seconds, as_date=as_date)
    provider = connect(kind)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: provider.embed(texts(3)), range(24)))
    assert sum(result.calls for result in results) == 24 + 4 == len(server.calls)
    assert server.too_soon == 0


@both
def test_the_check_for_calls_too_soon_catches_workers_that_share_nothing(
    kind: str, server: ProtocolServer, connect: Connect
) -> None:
    server.latency = 0.15
    server.fail("rate_limit", times=1, retry_after=5)
    provider = connect(kind)
    with pytest.raises(ProviderRateLimited):
        provider.with_retrier(Retrier(ONCE)).embed(["first"])
    time.sleep(0.6)
    provider.with_retrier(Retrier(ONCE)).embed(["second"])
    assert server.too_soon == 1


@both
def test_a_stop_ends_a_told_wait_at_once(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("rate_limit", times=None, retry_after=30)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    provider = connect(kind)
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        provider.with_retrier(provider.retrier.replace(policy=RetryPolicy(), stop=stop)).embed(["a"])
    assert time.monotonic() - begun < 10


@both
@pytest.mark.parametrize("place", [0, 17, 24, 25, 49])
def test_a_poison_text_is_found_and_the_others_are_embedded(
    kind: str, place: int, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("poison", times=None, containing="POISON", message="content is not acceptable")
    given = texts(50)
    given[place] = "there is POISON in this"
    result = connect(kind).embed(given, isolate=True)
    assert list(result.errors) == [place]
    assert "content is not acceptable" in str(result.errors[place])
    assert result.calls == len(server.calls) <= 2 + 2 * math.log2(50)
    assert np.count_nonzero(result.vectors.any(axis=1)) == 49


@both
def test_a_row_error_does_not_quote_the_row(kind: str, server: ProtocolServer, connect: Connect) -> None:
    row = "POISON in a row that nobody but its owner should read"
    server.fail("poison", times=None, containing="POISON", message=f"cannot embed '{row}'")
    error = connect(kind).embed(["good", row], isolate=True).errors[1]
    assert "cannot embed" in str(error)
    assert "owner" not in str(error)


@both
def test_a_text_that_crashes_the_server_is_found(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("status", times=None, containing="CRASH", status=500)
    result = connect(kind).embed([*texts(20), "CRASH"], isolate=True)
    assert list(result.errors) == [20]


def test_ollamas_500_for_nan_is_the_texts_fault(server: ProtocolServer, connect: Connect) -> None:
    server.fail("nan_refused", times=None, containing="SICK")
    result = connect("ollama").embed(["good", "SICK", "fine"], isolate=True)
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], ProviderInputRejected)
    assert result.calls <= 5


@both
@pytest.mark.parametrize("fault", ["nan", "null", "zero"])
def test_a_useless_vector_parks_its_row_only(kind: str, fault: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail(fault, times=None, containing="SICK")
    result = connect(kind).embed(["good", "SICK", "fine"], isolate=True)
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], ProviderContractError)
    assert result.calls == 2


@both
def test_a_missing_vector_parks_its_row_only(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("null_row", times=None, containing="SICK")
    result = connect(kind).embed([*texts(20), "SICK"], isolate=True)
    assert list(result.errors) == [20]


@both
@pytest.mark.parametrize("fault", ["short", "empty", "all_nan", "null_row"])
def test_a_server_that_always_breaks_the_protocol_stops_the_job(
    kind: str, fault: str, server: ProtocolServer, connect: Connect
) -> None:
    server.fail(fault, times=None)
    with pytest.raises(ProviderContractError):
        connect(kind).embed(texts(50) if fault != "null_row" else texts(1), isolate=True)
    assert len(server.calls) <= 12


@both
def test_another_width_is_refused_at_once_and_both_are_named(
    kind: str, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("wrong_width", times=None)
    provider = connect(kind)
    with pytest.raises(ProviderWidthError, match=f"{provider.dimensions - 1} dimensions.* {provider.dimensions}"):
        provider.embed(texts(50), isolate=True)
    assert len(server.calls) == 1


def test_an_answer_out_of_order_is_put_in_order(server: ProtocolServer, connect: Connect) -> None:
    server.fail("shuffled")
    vectors = connect("openai").embed_documents(texts(5))
    np.testing.assert_allclose(vectors, [embed(text, 1536) for text in texts(5)], atol=1e-5)


def test_an_answer_whose_order_cannot_be_known_is_refused(server: ProtocolServer, connect: Connect) -> None:
    server.fail("unnumbered")
    with pytest.raises(ProviderContractError, match="not numbered"):
        connect("openai").embed(texts(5))


@both
def test_an_answer_that_comes_byte_by_byte_is_a_timeout(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("dribble", times=None, seconds=0.05)
    with pytest.raises(ProviderTimeout):
        connect(kind, timeout=0.5, retrier=Retrier(ONCE)).embed(["a"])


@both
def test_an_answer_without_end_is_given_up(
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


@pytest.mark.parametrize(
    ("kind", "where", "names"),
    [
        ("openai", {"base_url": "http://127.0.0.1:1/v1"}, ["127.0.0.1:1", "OPENAI_BASE_URL"]),
        ("ollama", {"url": "http://127.0.0.1:1"}, ["127.0.0.1:1", "OLLAMA_URL", "ollama serve"]),
    ],
)
def test_a_server_that_does_not_run_is_named_with_the_fix(
    kind: str, where: dict[str, str], names: Sequence[str], connect: Connect
) -> None:
    with pytest.raises(ProviderUnavailable) as raised:
        connect(kind, **where, retrier=Retrier(ONCE)).embed(["a"])
    assert all(name in str(raised.value) for name in names)


@pytest.mark.parametrize(
    ("kind", "option", "variable"), [("openai", "base_url", "OPENAI_BASE_URL"), ("ollama", "url", "OLLAMA_URL")]
)
@pytest.mark.parametrize("address", ["localhost:11434", "ftp://127.0.0.1/", "not an address"])
def test_an_address_that_is_none_names_the_setting(
    kind: str, option: str, variable: str, address: str, connect: Connect
) -> None:
    with pytest.raises(ProviderError, match=variable) as raised:
        connect(kind, **{option: address}).embed(["a"])
    assert not raised.value.retryable


@pytest.mark.parametrize(("kind", "option"), [("openai", "base_url"), ("ollama", "url")])
def test_https_to_a_server_without_tls_is_final(
    kind: str, option: str, server: ProtocolServer, connect: Connect
) -> None:
    with pytest.raises(ProviderRejected, match="SSL_CERT_FILE"):
        connect(kind, **{option: server.openai_url.replace("http:", "https:")}).embed(["a"])


@pytest.mark.parametrize(("kind", "variable"), [("openai", "OPENAI_BASE_URL"), ("ollama", "OLLAMA_URL")])
def test_a_page_instead_of_an_answer_names_the_address(
    kind: str, variable: str, server: ProtocolServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.protocol_server._Handler._answer", lambda *_: "<html>Welcome</html>")
    with pytest.raises(ProviderContractError, match=variable):
        connect(kind).embed(["a"])


def test_a_model_that_ollama_lacks_comes_with_the_command_to_pull_it(connect: Connect) -> None:
    with pytest.raises(ProviderRejected, match="`ollama pull snowflake-arctic-embed`"):
        connect("ollama", model="snowflake-arctic-embed").embed(texts(50), isolate=True)


def test_a_model_that_openai_lacks_names_the_setting(connect: Connect) -> None:
    with pytest.raises(ProviderRejected, match=r"text-embedding-9.*EMBEDDING_MODEL"):
        connect("openai", model="text-embedding-9", dimensions=64).embed(["a"])


def test_a_wrong_key_names_the_setting_and_shows_in_nothing(
    connect: Connect, server: ProtocolServer, api_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wrong = f"{api_key}-wrong"
    provider = connect("openai", api_key=SecretStr(wrong))
    with pytest.raises(ProviderRejected, match="OPENAI_API_KEY") as raised:
        provider.embed(texts(50), isolate=True)
    assert len(server.calls) == 1
    shown = [
        "".join(traceback.format_exception(raised.value)),
        repr(raised.value),
        repr(provider),
        str(vars(provider)),
        caplog.text,
    ]
    assert not [text for text in shown if wrong in text]


@pytest.mark.parametrize("key", ["", "  ", "two\nlines", "smart“quotes”"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str, connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY") as raised:
        connect("openai", api_key=SecretStr(key))
    assert not key.strip() or key not in str(raised.value)


@pytest.mark.parametrize(("kind", "option"), [("openai", "base_url"), ("ollama", "url")])
@pytest.mark.parametrize("address", ["http://me:hidden@127.0.0.1:1/", "http://127.0.0.1:1/?t=hidden"])
def test_an_address_with_a_secret_is_shown_without_it(kind: str, option: str, address: str, connect: Connect) -> None:
    provider = connect(kind, **{option: address}, retrier=Retrier(ONCE))
    assert "hidden" not in repr(provider)
    with pytest.raises(ProviderUnavailable) as raised:
        provider.embed(["a"])
    assert "hidden" not in "".join(traceback.format_exception(raised.value))


def test_fewer_dimensions_are_asked_for_and_are_another_model(server: ProtocolServer, connect: Connect) -> None:
    provider = connect("openai", dimensions=256)
    assert provider.model == "text-embedding-3-small@256"
    assert provider.embed_documents(["a"]).shape == (1, 256)
    assert server.calls[0].body["dimensions"] == 256
    native = connect("openai", dimensions=1536)
    native.embed_query("a")
    assert native.model == "text-embedding-3-small"
    assert "dimensions" not in server.calls[1].body
    assert connect("ollama", dimensions=256).model == "nomic-embed-text@256"


@both
def test_the_width_of_an_unknown_model_is_asked_once(kind: str, server: ProtocolServer, connect: Connect) -> None:
    provider = connect(kind, model="house-model")
    assert provider.spec == EmbeddingModel("house-model", kind, 96)
    assert provider.embed_documents(["a", "b"]).shape == (2, 96)
    assert provider.with_retrier(Retrier()).dimensions == 96
    assert [call.inputs for call in server.calls] == [["music"], ["a", "b"]]


@both
def test_an_unknown_models_limit_is_learned_from_its_refusal(
    kind: str, server: ProtocolServer, connect: Connect
) -> None:
    result = connect(kind, model="house-model").embed(["short", "w " * 20_000, "also short"])
    assert result.truncated == 1


def test_a_request_stays_within_300_000_tokens(server: ProtocolServer, connect: Connect) -> None:
    result = connect("openai").embed(["note " * 4000] * 80)
    assert [call.status for call in server.calls] == [200, 200]
    assert result.tokens == 320_000
    assert result.truncated == 0


def test_ollama_is_told_what_the_model_reads_and_to_stay_loaded(server: ProtocolServer, connect: Connect) -> None:
    connect("ollama", keep_alive="5m").embed_documents(["a"])
    body = server.calls[0].body
    assert (body["keep_alive"], body["options"]) == ("5m", {"num_ctx": 2048})
    assert body["input"] == ["search_document: a"]


def test_ollama_cuts_only_what_was_refused_for_its_length(server: ProtocolServer, connect: Connect) -> None:
    result = connect("ollama").embed(["short", "word " * 3000])
    assert result.truncated == 1
    assert [(call.body["truncate"], call.status) for call in server.calls] == [(False, 400), (True, 200), (False, 200)]


@both
def test_a_closed_provider_opens_again(kind: str, connect: Connect) -> None:
    provider = connect(kind)
    provider.embed_query("a")
    provider.close()
    assert provider.embed_query("a").any()


@pytest.mark.parametrize(
    ("model", "price"), [("text-embedding-3-small", 0.02), ("text-embedding-3-large", 0.13), ("house-model", 0.0)]
)
def test_prices_are_the_published_ones_unless_set(model: str, price: float, connect: Connect) -> None:
    assert connect("openai", model=model).price_per_million_tokens == price
    assert connect("openai", model=model, price_per_million_tokens=7.0).price_per_million_tokens == 7.0
    assert connect("ollama").price_per_million_tokens == 0.0


def test_the_reason_for_a_missing_package_says_what_to_install(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, package in (("openai", "openai"), ("ollama", "httpx")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(ConfigurationError, match=f"pip install {package}"):
            connect(kind).embed(["a"])


def test_no_key_is_written_in_this_folder() -> None:
    here = Path(__file__).parent
    assert not [path.name for path in here.glob("*.py") if "sk-" + "proj" in path.read_text()]
