"""Tests `python -m tests.drills`: verdicts, options for the tests, and clean-up after a cancelled job."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.embedded.postmaster import is_alive
from tests.commands.conftest import ROOT
from tests.drills import __main__ as drill
from tests.drills.harness import Length, Skipped


def run_tests(folder: Path, code: str, length: Length = Length.FULL) -> Any:
    path = folder / "test_it.py"
    path.write_text(code)
    return drill.run_tests("it", [str(path)], length)


def test_a_drill_passes_if_its_tests_pass(tmp_path: Path) -> None:
    row = run_tests(tmp_path, "def test_a(): pass\n")
    assert (row.verdict, row.problems) == (drill.PASSED, [])
    assert row.found.startswith("1 passed")


def test_a_skipped_test_is_not_a_passed_drill(tmp_path: Path) -> None:
    row = run_tests(tmp_path, "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('needs a thing')\n")
    assert row.verdict == drill.SKIPPED
    assert "needs a thing" in row.problems[0]


def test_a_failed_test_is_named(tmp_path: Path) -> None:
    row = run_tests(tmp_path, "def test_a(): assert 1 == 2\n")
    assert row.verdict == drill.FAILED
    assert "test_a" in row.problems[0]


def test_the_tests_get_their_time_limit(tmp_path: Path) -> None:
    code = "import os\ndef test_a(): assert os.environ['TONNETZ_DRILL'] == 'long'\n"
    assert run_tests(tmp_path, code, Length.LONG).verdict == drill.PASSED
    assert run_tests(tmp_path, code, Length.FULL).verdict == drill.FAILED


@pytest.mark.parametrize(("skip", "verdict"), [("1", "SKIPPED"), ("0", "FAILED")])
def test_a_drill_without_its_tool_fails_unless_it_may_be_skipped(
    skip: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*_: object) -> None:
        raise Skipped("install it")

    monkeypatch.setenv("TONNETZ_SKIP_TOOLS", skip)
    row = drill.run(drill.Drill("it", lacks), Length.SHORT)
    assert (row.verdict, row.problems) == (getattr(drill, verdict), ["install it"])


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path may have 107 characters.
    path = Path(tempfile.mkdtemp(prefix="tonnetz-drill-test-"))
    # If root runs the drill, the system user of the server has to enter the folder.
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("name", ["database: restarted", "input"])
def test_a_cancelled_job_leaves_no_server_and_no_folder(name: str, folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.drills", "--short", "--only", name],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (found := list(folder.glob("tonnetz-*/postgres/postmaster.pid"))):
        assert process.poll() is None, "it ended before a server was started"
        assert time.monotonic() < deadline, "no server was started"
        time.sleep(0.05)
    server = int(found[0].read_text().split()[0])
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(90) == 130
    assert not list(folder.glob("tonnetz-*"))
    assert not is_alive(server)
