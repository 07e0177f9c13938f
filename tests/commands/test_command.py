"""Tests that every script runs in the project's environment, or says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import ROOT

SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "scripts").rglob("*.py")
    if '__name__ == "__main__"' in path.read_text("utf-8")
)


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_and_begins_with_its_interpreter(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert (ROOT / script).read_text("utf-8").startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("script", ["scripts/demo.py", "scripts/bench/claims.py"])
def test_a_python_without_the_packages_runs_the_script_in_the_environment(script: str) -> None:
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("this checkout has no .venv")
    # With -S, Python runs without site-packages.
    done = run(sys.executable, "-S", script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (None, "error: the packages are not installed; run: make demo"),
        ((3, 10, 14), "error: Tonnetz needs Python 3.11 or newer; this is "),
    ],
)
def test_without_an_environment_the_script_prints_one_line_with_the_fix(
    tmp_path: Path, version: tuple[int, ...] | None, expected: str
) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    program = f"import sys, runpy; sys.version_info = {version} or sys.version_info; sys.path.insert(0, 'scripts')"
    done = run(sys.executable, "-S", "-c", f"{program}; runpy.run_path('scripts/import_datasets.py')", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(expected)


@pytest.mark.parametrize(
    ("error", "code"), [("DatabaseBusy", 1), ("DatabaseUnavailable", 2), ("ConfigurationError", 2)]
)
def test_an_error_is_one_line_and_only_a_busy_database_exits_1(error: str, code: int) -> None:
    script = f"import command, shared.errors\ndef main():\n raise shared.errors.{error}('no')\ncommand.run(main)"
    done = run(sys.executable, "-c", script, folder=ROOT / "scripts")
    assert (done.returncode, done.stderr) == (code, "error: no\n")


def test_the_installation_asks_for_a_python_that_is_new_enough(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\ntest "$1" = -V && echo "Python 3.10.14"\nexit $(test "$1" = -V; echo $?)\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["scripts/install.sh", "requirements.lock"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Tonnetz needs Python 3.11 or newer; Python 3.10.14 is ")
