"""Code that the benchmarks share: flags, texts, medians, tables and environments of other programs."""

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

# `python scripts/bench/NAME.py` puts only the folder scripts/bench on the path; the modules of the commands are in scripts.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import command
from command import ROOT
from scratch import SCRATCH

T = TypeVar("T")


def parser(description: str | None, **counts: tuple[int, str]) -> argparse.ArgumentParser:
    """A parser with --json and a flag for each of `counts`: the flag's default and its help."""
    made = command.parser(description, json="also print the result as one line of JSON")
    for name, (default, text) in counts.items():
        flag = f"--{name.replace('_', '-')}"
        made.add_argument(flag, type=_count, default=default, metavar="N", help=f"{text} (default: {default})")
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def finish(arguments: argparse.Namespace, result: Mapping[str, object]) -> int:
    """Print the result as JSON if --json asks for it; returns the exit code."""
    if arguments.json:
        print(json.dumps(result))
    return 0


def median(values: Iterable[float], digits: int) -> float:
    return round(statistics.median(values), digits)


def rotated(sides: Sequence[T], number: int) -> list[T]:
    """The compared systems in a rotated order, so that each round starts with another one."""
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns that are as wide as their longest cell. Numbers are aligned to the right."""
    lines = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        print(
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
            sep="  ",
        )


def read_texts(path: Path) -> list[str]:
    """The texts of a file of JSON lines with a field `text`, without the empty ones."""
    with path.open(encoding="utf-8") as lines:
        return [text for line in lines if line.strip() and (text := json.loads(line)["text"])]


def make_texts(count: int, shortest: int, longest: int) -> list[str]:
    """Make texts of `shortest` to `longest` words from the sample rows. They are the same texts every time."""
    words = (ROOT / "supabase" / "seed.sql").read_text(encoding="utf-8").replace("'", " ").split()
    chance = random.Random(7)
    return [" ".join(chance.choices(words, k=chance.randint(shortest, longest))) for _ in range(count)]


def environment_with(name: str, packages: Sequence[str]) -> Path:
    """The Python of .bench/NAME: an environment with these packages, which is created at the first run."""
    python, finished = SCRATCH / name / "bin" / "python", SCRATCH / name / "installed"
    if not finished.exists():
        print(f"installing {', '.join(packages)} into .bench/{name} (once; some minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", SCRATCH / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        finished.touch()
    return python
