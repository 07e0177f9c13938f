"""Tests that errors about wrong addresses, keys, models and packages name the setting."""

import logging
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.errors import (
    ConfigurationError,
    ProviderContractError,
    ProviderError,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.models import EmbeddingModel
from shared.retry import Retrier
from tests.protocol_server import ProtocolServer
from tests.providers.cases import ONCE, both, texts
from tests.providers.conftest import Connect


@pytest.mark.parametrize(
    ("kind", "option", "variable"), [("openai", "base_url", "OPENAI_BASE_URL"), ("ollama", "url", "OLLAMA_URL")]
)
@pytest.mark.parametrize("address", ["localhost:11434", "ftp://127.0.0.1/", "not an address"])
def test_an_invalid_address_names_the_setting(
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
def test_a_web_page_as_answer_names_the_address(
    kind: str, variable: str, server: ProtocolServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.protocol_server._Handler._answer", lambda *_: "<html>Welcome</html>")
    with pytest.raises(ProviderContractError, match=variable):
        connect(kind).embed(["a"])


def test_a_model_that_ollama_lacks_names_the_pull_command(connect: Connect) -> None:
    with pytest.raises(ProviderRejected, match="`ollama pull snowflake-arctic-embed`"):
        connect("ollama", model="snowflake-arctic-embed").embed(texts(50), isolate=True)


def test_a_model_that_openai_lacks_names_the_setting(connect: Connect) -> None:
    with pytest.raises(ProviderRejected, match=r"text-embedding-9.*EMBEDDING_MODEL"):
        connect("openai", model="text-embedding-9", dimensions=64).embed(["a"])


def test_a_wrong_key_names_the_setting_and_appears_in_no_output(
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
def test_a_key_that_a_header_cannot_contain_is_refused_and_not_shown(key: str, connect: Connect) -> None:
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
    assert provider.dimensions == 96
    assert [call.inputs for call in server.calls] == [["music"], ["a", "b"]]


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
