"""Tests the cache of graphs: a graph is built once, and again if the file is broken or the weights change."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.providers.onnx import provider as onnx_module
from shared.providers.onnx.graph_cache import GraphCache
from shared.providers.onnx.provider import OnnxProvider
from tests.unit.onnx_texts import LOSSLESS, graphs
from tests.unit.small_bert import random_weights, write_model

pytest.importorskip("onnxruntime")


def vector_of(folder: Path, cache: Path) -> Any:
    with closing(OnnxProvider(str(folder), cache_dir=cache, precision="fp32", threads=1)) as provider:
        return provider.embed_query("slow jazz ballad")


def test_the_graph_is_built_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vector_of(folder, tmp_path)
    monkeypatch.setattr(onnx_module, "build_graph", lambda *_: pytest.fail("built again"))
    np.testing.assert_array_equal(vector_of(folder, tmp_path), first)
    assert len(graphs(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["cut short", "overwritten", "emptied"])
def test_a_broken_graph_is_built_again(folder: Path, tmp_path: Path, damage: str) -> None:
    first = vector_of(folder, tmp_path)
    (path,) = graphs(tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[:-100], "overwritten": b"\xff" * len(whole), "emptied": b""}[damage])
    np.testing.assert_array_equal(vector_of(folder, tmp_path), first)
    assert [path.read_bytes() for path in graphs(tmp_path)] == [whole]


def test_a_truncated_file_is_not_used_as_a_graph(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path)
    path = cache.get("name", "weights", lambda: b"graph")
    assert isinstance(path, Path)
    path.write_bytes(b"gra")
    assert cache.get("name", "weights", lambda: b"graph") == path
    assert path.read_bytes() == b"graph"


def test_changed_weights_build_a_new_graph_and_delete_the_old_one(tmp_path: Path) -> None:
    folder, cache = write_model(tmp_path / "model"), tmp_path / "cache"
    first = vector_of(folder, cache)
    (old,) = graphs(cache)
    write_model(folder, weights=random_weights(seed=4))
    second = vector_of(folder, cache)
    assert first @ second < LOSSLESS
    assert old not in graphs(cache)
    assert len(graphs(cache)) == 1


def test_concurrent_builders_do_not_affect_each_other(folder: Path, tmp_path: Path) -> None:
    expected = vector_of(folder, tmp_path / "alone")
    with ThreadPoolExecutor(4) as starters:
        for vector in starters.map(lambda _: vector_of(folder, tmp_path / "shared"), range(8)):
            np.testing.assert_array_equal(vector, expected)
    assert len(graphs(tmp_path / "shared")) == 1


def test_without_a_writable_folder_the_graph_stays_in_memory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    expected = vector_of(folder, tmp_path / "cache")
    np.testing.assert_array_equal(vector_of(folder, tmp_path / "file" / "cache"), expected)


def test_a_graph_that_could_not_be_stored_whole_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert GraphCache(tmp_path).get("name", "weights", lambda: b"graph") == b"graph"
    assert graphs(tmp_path) == []
