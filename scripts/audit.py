#!/usr/bin/env python3
"""Checks the packages of the lock files: their licences, and known vulnerabilities if their database can be reached.

The exit code is 1 if a licence does not allow free use, or if a package has a known vulnerability.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")

# LGPL and MPL are allowed: the packages are used unchanged, as libraries.
REFUSED = re.compile(
    r"(?<!L)GPL|Affero|(?<!Lesser )General Public License|SSPL|Commons Clause|Proprietary|UNKNOWN", re.I
)


def check_licences() -> list[str]:
    """The packages of this environment whose licence is refused, as `name: licence`."""
    packages = _json("piplicenses", "--from=mixed", "--format=json", "--with-system")
    refused = [f"{found['Name']}: {found['License'][:80]}" for found in packages if REFUSED.search(found["License"])]
    print(f"licences: {len(packages)} packages, {len(refused)} refused")
    return refused


def check_vulnerabilities(lock: str) -> list[str]:
    """The known vulnerabilities of a lock file's packages, as `name version: ids`. Prints how many were checked."""
    try:
        report = _json(
            "pip_audit", "--format=json", "--progress-spinner=off", "--no-deps", "--disable-pip", "-r", str(ROOT / lock)
        )
    except subprocess.CalledProcessError as error:
        if "ConnectionError" not in error.stderr:
            raise
        report = {"dependencies": []}
    checked = [package for package in report["dependencies"] if "skip_reason" not in package]
    if not checked:
        print(f"{lock}: vulnerabilities not checked, because their database cannot be reached")
        return []
    found = [
        f"{package['name']} {package['version']}: {', '.join(vulnerability['id'] for vulnerability in package['vulns'])}"
        for package in checked
        if package["vulns"]
    ]
    print(
        f"{lock}: {len(checked)} of {len(report['dependencies'])} packages checked, {len(found)} with vulnerabilities"
    )
    return found


def _json(module: str, *arguments: str) -> Any:
    """Run a module and parse the JSON that it prints. Raises CalledProcessError if it prints none."""
    command = [sys.executable, "-m", module, *arguments]
    # pip-audit also prints its report if it ends with 1, because it found a vulnerability.
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if not result.stdout.lstrip().startswith(("{", "[")):
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout, result.stderr)
    return json.loads(result.stdout)


def main() -> int:
    """Print what was checked, then each problem; returns the exit code."""
    problems = check_licences()
    for lock in LOCKS:
        problems += check_vulnerabilities(lock)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
