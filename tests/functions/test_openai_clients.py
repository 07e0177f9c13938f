"""Tests unchanged clients of OpenAI's API with a server of this project."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from tiktoken import Encoding

from tests.client_programs import require_javascript, run_client
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.functions.conftest import API_KEY
from tests.protocol_vectors import embed

TEXTS = ["a harp", "the viola, played slowly", "drums 🥁 and bass"]
EXPECTED = np.array([embed(text, DIMENSIONS) for text in TEXTS])

Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(client: httpx.Client, encoding: Encoding, tmp_path: Path) -> Run:
    """A function that runs a client in a separate process with the server's address, and returns what it printed."""
    variables = {
        "BASE_URL": f"{client.base_url}/v1",
        "API_KEY": API_KEY,
        "MODEL": "fake",
        "WIDTH": str(DIMENSIONS),
        "TEXTS": json.dumps(TEXTS),
        "TOKENS": json.dumps([encoding.encode(text) for text in TEXTS]),
    }
    return lambda program: run_client(program, directory=tmp_path, variables=variables)


def assert_all_right(vectors: dict[str, list[list[float]]]) -> None:
    for way, rows in vectors.items():
        np.testing.assert_allclose(rows, EXPECTED, atol=1e-6, err_msg=way)


def test_langchain_embeds_by_default_with_tokens_and_without(run: Run, provider: FakeProvider) -> None:
    answer = run("langchain_client.py")
    assert len(answer["vectors"]) == 4
    assert_all_right(answer["vectors"])
    assert set(provider.wire.texts) <= {*TEXTS, "music"}, "tokens come back as the very text"


def test_llama_index_embeds_with_both_of_its_classes(run: Run) -> None:
    answer = run("llama_index_client.py")
    assert len(answer["vectors"]) == 4
    assert_all_right(answer["vectors"])


def test_litellm_embeds_and_gets_the_right_error(run: Run) -> None:
    answer = run("litellm_client.py")
    assert len(answer["vectors"]) == 4
    assert_all_right(answer["vectors"])
    assert answer["refused"] == "404"


def test_the_javascript_client_embeds_and_lists_the_model(run: Run, request: pytest.FixtureRequest) -> None:
    require_javascript(request)
    answer = run("openai_client.mjs")
    assert len(answer["vectors"]) == 3
    assert_all_right(answer["vectors"])
    assert answer["models"] == ["fake", "fake"]
    assert answer["refused"] == "NotFoundError 404 model_not_found"


def test_the_asynchronous_client_embeds_many_texts_at_once(client: httpx.Client) -> None:
    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key=API_KEY, max_retries=0) as official:
            asked = [official.embeddings.create(model="fake", input=text) for text in TEXTS]
            return [answer.data[0].embedding for answer in await asyncio.gather(*asked)]

    # Use a thread: in this one, asyncio.run would close the event loop that handlers of other tests use.
    with ThreadPoolExecutor(1) as thread:
        assert_all_right({"async": thread.submit(asyncio.run, ask()).result()})


def test_the_official_client_lists_and_retrieves_the_model(client: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=API_KEY, max_retries=0) as official:
        assert [model.id for model in official.models.list()] == ["fake"]
        model = official.models.retrieve("fake")
        assert (model.id, model.object, model.owned_by) == ("fake", "model", "fake")
        with pytest.raises(openai.NotFoundError):
            official.models.retrieve("another/model")
