"""Tests `make audit`: it always checks licences, and vulnerabilities if their database can be reached."""

import json
import subprocess
from typing import Any

import pytest

from scripts import audit


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "AGPL-3.0", "GNU General Public License v3 (GPLv3)", "SSPL-1.0", "UNKNOWN"]
)
def test_a_licence_that_restricts_the_user_is_refused(licence: str) -> None:
    assert audit.REFUSED.search(licence)


@pytest.mark.parametrize(
    "licence",
    ["MIT", "LGPL-3.0-only", "GNU Lesser General Public License v3 (LGPLv3)", "MPL-2.0", "Apache Software License"],
)
def test_a_free_licence_is_accepted(licence: str) -> None:
    assert not audit.REFUSED.search(licence)


def test_the_licences_of_all_installed_packages_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.check_licences() == []
    packages = int(capsys.readouterr().out.split()[1])
    assert packages > 80


def answers(monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str = "") -> None:
    """Replace pip-audit, whose database is on the internet, by a program with this exit code and output."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[2] == "pip_audit"
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", run)


SKIPPED = {"name": "uvloop", "skip_reason": "not found"}
SAFE = {"name": "httpx", "version": "0.28.1", "vulns": []}
UNSAFE = {"name": "h11", "version": "0.9", "vulns": [{"id": "CVE-2025-43859"}]}


def test_a_known_vulnerability_is_reported_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, 1, json.dumps({"dependencies": [SAFE, UNSAFE, SKIPPED]}))
    assert audit.check_vulnerabilities("requirements.lock") == ["h11 0.9: CVE-2025-43859"]
    assert capsys.readouterr().out == "requirements.lock: 2 of 3 packages checked, 1 with vulnerabilities\n"


@pytest.mark.parametrize(
    ("out", "err"),
    [(json.dumps({"dependencies": [SKIPPED]}), ""), ("", "requests.exceptions.ConnectionError: no route")],
)
def test_an_unreachable_vulnerability_database_is_reported_as_not_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, err: str
) -> None:
    answers(monkeypatch, 1, out, err)
    assert audit.check_vulnerabilities("requirements.lock") == []
    assert "vulnerabilities not checked" in capsys.readouterr().out


def test_any_other_failure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 2, "", "unknown option")
    with pytest.raises(subprocess.CalledProcessError):
        audit.check_vulnerabilities("requirements.lock")
