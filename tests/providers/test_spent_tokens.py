"""Tests that the cost of a call is counted even after a failure, and that a text that may not be cut is sent once."""

import socket

import pytest

from shared.errors import ProviderError, ProviderInputTooLong, ProviderTimeout, ProviderUnavailable
from shared.models import Spent
from shared.retry import RetryPolicy
from tests.protocol_server import ProtocolServer
from tests.providers.cases import ONCE, both, texts
from tests.providers.conftest import Connect

TWICE = RetryPolicy(max_attempts=2, base_wait=0.001)


@both
def test_a_request_that_is_not_answered_in_time_may_have_been_paid(
    kind: str, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("slow", times=None, seconds=1.5)
    provider, spent = connect(kind, timeout=0.2), Spent()
    with pytest.raises(ProviderTimeout):
        provider.embed(texts(5), retry=TWICE, spent=spent)
    prefixed = [provider.spec.document_prefix + text for text in texts(5)]
    assert (spent.calls, spent.tokens) == (2, 2 * sum(provider.count_tokens(prefixed)))


@both
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_refused_request_costs_nothing(kind: str, status: int, server: ProtocolServer, connect: Connect) -> None:
    server.fail("status", times=None, status=status)
    spent = Spent()
    with pytest.raises(ProviderError):
        connect(kind).embed(texts(5), retry=ONCE, spent=spent)
    assert (spent.calls, spent.tokens) == (1, 0)


@both
def test_a_request_that_was_never_sent_costs_nothing(kind: str, connect: Connect) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    spent = Spent()
    provider = connect(kind, **({"base_url": url} if kind == "openai" else {"url": url}))
    with pytest.raises(ProviderUnavailable):
        provider.embed(texts(5), retry=ONCE, spent=spent)
    assert spent.tokens == 0


@both
def test_a_connection_that_breaks_may_have_been_paid(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("reset", times=None)
    provider, spent = connect(kind), Spent()
    with pytest.raises(ProviderUnavailable):
        provider.embed(texts(5), retry=ONCE, spent=spent)
    assert spent.tokens == sum(provider.count_tokens([provider.spec.document_prefix + text for text in texts(5)]))


@both
def test_calls_that_share_a_count_report_their_own(kind: str, connect: Connect) -> None:
    provider, spent = connect(kind), Spent()
    first, second = (provider.embed(texts(count), spent=spent) for count in (3, 5))
    assert (first.calls, second.calls, spent.calls) == (1, 1, 2)
    assert spent.tokens == first.tokens + second.tokens
    assert second.tokens > first.tokens


@both
def test_a_text_that_may_not_be_cut_is_refused_and_not_sent_shorter(
    kind: str, server: ProtocolServer, connect: Connect
) -> None:
    result = connect(kind).embed(["short", "word " * 9_000, "fine"], isolate=True, truncate=False)
    assert {index: type(error) for index, error in result.errors.items()} == {1: ProviderInputTooLong}
    assert not result.cut
    assert sum("word word" in text for call in server.calls for text in call.inputs) <= 1
