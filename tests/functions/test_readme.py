"""The requests of the README, run as they are printed, against a server with the sample rows of `make demo`."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from functions.edge.process import Process
from shared.database.migrations import migrate
from shared.database.postgres import PostgresDatabase
from shared.database.queue import embedding_coverage
from shared.providers.onnx import OnnxProvider
from shared.services.backfill import BackfillOptions, backfill
from tests.conftest import missing_tool
from tests.functions.conftest import make_settings, serving

README = Path(__file__).resolve().parents[2] / "README.md"
ADDRESS = "localhost:8000"


def requests() -> list[tuple[str, dict[str, Any] | None]]:
    """Each curl line, continued lines joined, with the answer that is printed after its block."""
    found = []
    for block, answer in re.findall(
        r"```\n(curl .*?)```\n(?:```json\n(.*?)```)?", README.read_text("utf-8"), re.DOTALL
    ):
        lines = [line.strip() for line in re.split(r"\n(?=curl )", block)]
        found += [(line, None) for line in lines[:-1]]
        found.append((lines[-1], json.loads(answer) if answer else None))
    return found


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnnxProvider]:
    with closing(OnnxProvider(cache_dir=tmp_path_factory.mktemp("models"))) as provider:
        yield provider


@pytest.fixture
def address(
    database_url: SecretStr, database: PostgresDatabase, engine: OnnxProvider, request: pytest.FixtureRequest
) -> Iterator[str]:
    if shutil.which("curl") is None:
        missing_tool(request, "needs curl")
    migrate(database_url, seed=True)
    for coverage in embedding_coverage(database):
        assert backfill(database, engine, BackfillOptions(coverage.collection)).complete
    process = Process(
        make_settings(functions_api_key=None),
        database=database,
        provider=engine,
        long_lived=True,
        open_on_loopback=True,
    )
    with serving(process) as url:
        yield url.removeprefix("http://")


def test_each_request_of_the_readme_gets_the_answer_that_is_printed(address: str) -> None:
    compared = 0
    for line, printed in requests():
        assert ADDRESS in line, line
        command = [*shlex.split(line.replace(ADDRESS, address).replace("\\\n", " ")), "--fail-with-body"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stdout)
        if printed is not None:
            answer = json.loads(done.stdout)
            first = (answer.get("hits") or answer["results"])[0]
            # The last digit depends on what the CPU computes in.
            assert {name: first[name] for name in printed} == pytest.approx(printed, abs=0.01), line
            compared += 1
    assert compared == 4, "one answer for each of the four systems"
