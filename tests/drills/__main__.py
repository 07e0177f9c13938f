"""Runs the failure drills and prints the result of each. Exit code 1 if one fails."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from scripts import command
from tests.drills.catalogue import DRILLS, TESTED, Drill
from tests.drills.harness import ROOT, Length, Skipped, environment_of_tests, open_cluster, tools_are_required

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"
# Seconds that interrupted tests have to stop their servers.
TAKING_DOWN_SECONDS = 60


@dataclass(frozen=True)
class Row:
    """A line of the table; `problems` says why a drill failed."""

    drill: str
    done: str
    found: str
    verdict: str
    seconds: float
    problems: list[str]


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(__doc__, json="print the table as JSON")
    parser.prog = "python -m tests.drills"
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="run the short forms: some seconds each")
    length.add_argument("--long", action="store_true", help="run the long forms: up to hours")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="run only drills with TEXT in their name; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the drills and exit")
    return parser.parse_args()


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    # A shell starts background jobs with SIGINT ignored; restore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parse_arguments()
    length = Length.LONG if arguments.long else Length.SHORT if arguments.short else Length.FULL
    drills = [one for one in DRILLS if one.shortest <= length and chosen(one.name, arguments.only)]
    tested = {name: paths for name, paths in TESTED.items() if chosen(name, arguments.only)}
    if arguments.list:
        print(*(one.name for one in drills), *tested, sep="\n")
        return 0
    if not drills and not tested:
        print("error: no drill has such a name; see --list", file=sys.stderr)
        return command.EXIT_CONFIGURATION
    rows: list[Row] = []
    for drill in drills:
        rows.append(run(drill, length))
        say(rows[-1])
    for name, paths in tested.items():
        rows.append(run_tests(name, paths, length))
        say(rows[-1])
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        show(rows)
    return 1 if any(row.verdict == FAILED for row in rows) else 0


def chosen(name: str, only: list[str] | None) -> bool:
    return only is None or any(text in name for text in only)


def interrupt(_: int, __: object) -> NoReturn:
    """Stop the servers and remove the folders when a job is cancelled, as Ctrl-C does; ignore further signals."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(drill: Drill, length: Length) -> Row:
    """Run a drill on a new server. An exception fails only this drill."""
    began = time.monotonic()
    try:
        with open_cluster() as cluster:
            finding = drill.run(cluster, length)
    except Skipped as reason:
        verdict = FAILED if tools_are_required() else SKIPPED
        return Row(drill.name, "", "", verdict, time.monotonic() - began, [str(reason)])
    except Exception as error:  # noqa: BLE001 - the table has a line for it
        return Row(drill.name, "", "", FAILED, time.monotonic() - began, [f"{type(error).__name__}: {error}"])
    verdict = FAILED if finding.problems else PASSED
    return Row(drill.name, finding.done, finding.found, verdict, time.monotonic() - began, finding.problems)


def run_tests(name: str, paths: Sequence[str], length: Length) -> Row:
    """Run test files; pytest's last line is the finding. A skipped test makes the verdict `skipped`."""
    began = time.monotonic()
    code, lines = run_pytest(paths, length)
    counted = re.sub(r"^=+ | =+$", "", lines[-1])
    left_out = [line for line in lines if line.startswith("SKIPPED")]
    verdict = FAILED if code else SKIPPED if left_out else PASSED
    problems = left_out + ([line for line in lines if line.startswith(("FAILED", "ERROR"))] if code else [])
    return Row(name, f"pytest {' '.join(paths)}", counted, verdict, time.monotonic() - began, problems)


def run_pytest(paths: Sequence[str], length: Length) -> tuple[int, list[str]]:
    """The exit code and the lines of pytest, with the reasons for skipped tests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider", *paths],
        cwd=ROOT,
        env=environment_of_tests(length),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Start a new session: a signal to the whole process group would end pytest before its fixtures have cleaned up.
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=TAKING_DOWN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    return process.returncode, stdout.strip().splitlines() or [stderr.strip()[-300:]]


def say(row: Row) -> None:
    """Print a line to stderr as soon as a drill ends, because all drills together take minutes."""
    print(f"{row.verdict:<8}{row.drill} ({row.seconds:.0f} s)", file=sys.stderr)
    for problem in row.problems:
        print(f"        {problem}", file=sys.stderr)


def show(rows: list[Row]) -> None:
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    for heading in ("drill", "what was done", "what was found", "verdict"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        found = "\n".join([*([row.found] if row.found else []), *row.problems])
        table.add_row(row.drill, row.done, found, row.verdict)
    console.print(table)
    failed, skipped = (sum(row.verdict == verdict for row in rows) for verdict in (FAILED, SKIPPED))
    minutes = sum(row.seconds for row in rows) / 60
    cores = os.cpu_count()
    console.print(f"{len(rows)} drills, {failed} failed, {skipped} skipped, {minutes:.1f} minutes on {cores} cores")


if __name__ == "__main__":
    command.run(main)
