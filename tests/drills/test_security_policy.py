"""Tests that every promise in SECURITY.md names an existing test."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_of_the_security_policy_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = text.partition("## What is not promised")[0].splitlines()
    # Without the table's head.
    rows = [line for line in promises if line.startswith("|")][2:]
    assert len(rows) >= 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, f"without a test: {row}"
        for path, name in named:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert f"def {name}" in source, f"{path} has no {name}"
