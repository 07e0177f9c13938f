"""Runs the code blocks of README and docs as printed, each page on a new database and server."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from functions.services import Services
from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import migrate
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import embedding_coverage
from shared.providers.onnx.provider import OnnxProvider
from tests.conftest import missing_tool
from tests.documents import OUTPUT, PAGES, ROOT, RUN, Block, blocks
from tests.functions.conftest import Serve, make_settings, serving
from tests.postgres_cluster import Cluster

ADDRESS = "localhost:8000"
# Pages whose blocks start with a project that has tables and no Tonnetz.
EXISTING_PROJECT = """
    create table public.articles (id bigint generated always as identity primary key, title text not null, body text not null);
    insert into articles (title, body) values
      ('Bread', 'Flour, water, salt and time.'), ('Tuning a guitar', 'Turn the pegs until the fifth fret matches.');
"""
EMPTY = {"README.md"}
# Fields that depend on the machine.
TIMES = {"seconds", "took_ms"}


@dataclass
class Place:
    """The environment in which the blocks of a page are run."""

    url: SecretStr
    environment: dict[str, str]
    address: str | None

    def run(self, block: Block) -> str:
        """Run a block and return its output."""
        if block.language == "sql":
            with psycopg.connect(self.url.get_secret_value(), autocommit=True) as owner:
                owner.execute(block.text)
            return ""
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        text = block.text.replace(".venv/bin/python", sys.executable)
        if ADDRESS in text:
            assert self.address, f"{block.place}: no server is up"
            text = text.replace("curl -s ", "curl -s --fail-with-body ").replace(ADDRESS, self.address)
        done = subprocess.run(
            [*program, text], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{block.place}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def engine(cache: Path) -> Iterator[OnnxProvider]:
    with closing(OnnxProvider(cache_dir=cache / "models")) as provider:
        yield provider


@contextmanager
def place_for(page: Path, cluster: Cluster, engine: OnnxProvider, cache: Path) -> Iterator[Place]:
    """A database with embedded sample rows and a server, or a project without Tonnetz."""
    with ExitStack() as stack:
        empty = page.name in EMPTY
        url = stack.enter_context(cluster.empty() if empty else cluster.clone())
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(cache),
            "DATABASE_URL": url.get_secret_value(),
            "TONNETZ_DATA_DIR": str(cache),
        }
        if empty:
            with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
                owner.execute(EXISTING_PROJECT)
            yield Place(url, environment, None)
            return
        migrate(url, seed=True)
        database = stack.enter_context(PostgresDatabase(url))
        for coverage in embedding_coverage(database):
            assert backfill(database, engine, BackfillOptions(coverage.collection)).complete
        settings = make_settings(functions_api_key=None)
        services = Services(settings, database=database, provider=engine, long_lived=True, open_on_loopback=True)
        address = stack.enter_context(serving(services))
        yield Place(url, environment, address.removeprefix("http://"))


def to_run(page: Path) -> list[Block]:
    return [block for block in blocks(page) if not block.mark and block.language in (*RUN, OUTPUT)]


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: page.name)
def test_every_block_runs_and_prints_what_the_page_shows(
    page: Path, cluster: Cluster, engine: OnnxProvider, cache: Path, request: pytest.FixtureRequest
) -> None:
    if shutil.which("curl") is None:
        missing_tool(request, "needs curl")
    with place_for(page, cluster, engine, cache) as place:
        printed = ""
        for block in to_run(page):
            if block.language == OUTPUT:
                compare(block, documents(printed)[-1])
            else:
                printed = place.run(block)


def documents(printed: str) -> list[dict[str, Any]]:
    """Parse the JSON documents that were printed one after the other."""
    found, rest = [], printed.strip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def compare(block: Block, answer: dict[str, Any]) -> None:
    """Compare answers; of a search only the first hit and the fields that the page shows."""
    shown = json.loads(block.text)
    found = next(iter(answer.get("hits") or answer.get("results") or [answer]))
    # The last digit depends on the CPU's precision.
    # `collections` of a report repeats its numbers, including times.
    expected = {name: value for name, value in shown.items() if name not in {*TIMES, "collections"}}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.01), block.place


def test_the_route_table_of_the_readme_says_who_may_call_each_route(serve: Serve) -> None:
    schemes = {
        "anyone": None,
        "anyone, as the caller": [{}, {"CallerToken": []}],
        "FUNCTIONS_API_KEY": [{"FunctionsKey": []}],
        "WEBHOOK_SECRET": [{"WebhookSecret": []}],
    }
    rows = re.findall(r"^\| (`(?:GET|POST) /.*?) \| ([^|]*) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    shown = {route: schemes[who] for routes, who in rows for route in re.findall(r"`([A-Z]+ /[^`]*)`", routes)}
    paths = serve().get("/openapi.json").json()["paths"]
    served = {
        f"{method.upper()} {path}": operation.get("security")
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    assert shown == served


def test_an_answer_is_shown_and_compared_for_each_of_the_four_systems() -> None:
    shown = [block for block in to_run(ROOT / "docs" / "collections.md") if block.language == OUTPUT]
    assert len(shown) == 4
