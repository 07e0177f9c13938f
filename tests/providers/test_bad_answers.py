"""Tests answers that violate the protocol, over real HTTP."""

import traceback

import numpy as np
import pytest

from shared.errors import (
    ProviderContractError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderWidthError,
)
from tests.protocol_server import ProtocolServer
from tests.protocol_vectors import embed
from tests.providers.cases import both, texts
from tests.providers.conftest import Connect


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
def test_a_redirect_is_not_followed_and_its_host_is_named(
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
def test_a_redirect_without_a_location_is_reported(
    kind: str, to: str, server: ProtocolServer, connect: Connect
) -> None:
    server.fail("redirect", times=None, to=to)
    with pytest.raises(ProviderRejected, match="points to another address"):
        connect(kind).embed(texts(5), isolate=True)


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
