"""Fixtures: the in-process engine with a small test model and with the packaged model."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.providers.onnx.provider import OnnxProvider
from tests.unit.small_bert import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small-bert")


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[OnnxProvider]:
    with closing(OnnxProvider(str(folder), cache_dir=folder.parent / "cache", precision="fp32", threads=2)) as provider:
        yield provider


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def packaged(cache_dir: Path) -> Iterator[OnnxProvider]:
    with closing(OnnxProvider(cache_dir=cache_dir, threads=2)) as provider:
        yield provider
