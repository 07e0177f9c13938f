"""Tests that texts that a server refuses or crashes on are found, and the others are embedded."""

import math

import numpy as np
import pytest

from shared.errors import (
    ProviderContractError,
    ProviderInputRejected,
)
from tests.protocol_server import ProtocolServer
from tests.providers.cases import both, texts
from tests.providers.conftest import Connect


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
    row = "POISON in a row that only its owner may read"
    server.fail("poison", times=None, containing="POISON", message=f"cannot embed '{row}'")
    error = connect(kind).embed(["good", row], isolate=True).errors[1]
    assert "cannot embed" in str(error)
    assert "owner" not in str(error)


@both
def test_a_text_that_crashes_the_server_is_found(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("status", times=None, containing="CRASH", status=500)
    result = connect(kind).embed([*texts(20), "CRASH"], isolate=True)
    assert list(result.errors) == [20]


def test_ollamas_500_for_nan_fails_only_the_text(server: ProtocolServer, connect: Connect) -> None:
    server.fail("nan_refused", times=None, containing="SICK")
    result = connect("ollama").embed(["good", "SICK", "fine"], isolate=True)
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], ProviderInputRejected)
    assert result.calls <= 5


@both
@pytest.mark.parametrize("fault", ["nan", "null", "zero"])
def test_an_invalid_vector_fails_only_its_row(kind: str, fault: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail(fault, times=None, containing="SICK")
    result = connect(kind).embed(["good", "SICK", "fine"], isolate=True)
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], ProviderContractError)
    assert result.calls == 2


@both
def test_a_missing_vector_fails_only_its_row(kind: str, server: ProtocolServer, connect: Connect) -> None:
    server.fail("null_row", times=None, containing="SICK")
    result = connect(kind).embed([*texts(20), "SICK"], isolate=True)
    assert list(result.errors) == [20]


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


def test_requests_to_ollama_set_the_context_length_and_keep_alive(server: ProtocolServer, connect: Connect) -> None:
    connect("ollama", keep_alive="5m").embed_documents(["a"])
    body = server.calls[0].body
    assert (body["keep_alive"], body["options"]) == ("5m", {"num_ctx": 2048})
    assert body["input"] == ["search_document: a"]


def test_ollama_cuts_only_what_was_refused_for_its_length(server: ProtocolServer, connect: Connect) -> None:
    result = connect("ollama").embed(["short", "word " * 3000])
    assert result.truncated == 1
    assert [(call.body["truncate"], call.status) for call in server.calls] == [(False, 400), (True, 200), (False, 200)]
