"""What the documents promise exists."""

import re
from pathlib import Path

import pytest

from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]


def targets() -> dict[str, str]:
    """The Makefile's targets and what `make help` says of each."""
    found = re.findall(
        r"^([a-z][a-z-]*):[^#\n]*(?:## (.*))?$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return dict(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_it_names_exists(document: Path) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", "\n".join(code_of(document))))
    assert named - set(targets()) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_it_names_exists(document: Path) -> None:
    folders = "functions|shared|supabase|scripts|tests"
    named = set(re.findall(rf"(?<![\w/.])((?:{folders})/[\w./-]*\w)", "\n".join(code_of(document))))
    assert [path for path in sorted(named) if "<" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_setting_is_documented() -> None:
    text = README.read_text(encoding="utf-8") + (ROOT / ".env.example").read_text(encoding="utf-8")
    assert [name.upper() for name in Settings.model_fields if name.upper() not in text] == []


def test_every_target_says_what_it_does() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert [name for name in phony[1].split() if not targets().get(name)] == []


def test_every_flag_of_the_backfill_that_the_readme_names_exists() -> None:
    flags = set(re.findall(r"(?<!bench_)backfill\.py[^\n`]*?(--[a-z-]+)", README.read_text(encoding="utf-8")))
    source = (ROOT / "scripts/backfill.py").read_text(encoding="utf-8")
    # --help is argparse's own.
    assert [flag for flag in sorted(flags - {"--help"}) if f'"{flag}"' not in source] == []


def code_of(document: Path) -> list[str]:
    """What stands in backticks or in a block of code."""
    text = document.read_text(encoding="utf-8")
    return [part for pair in re.findall(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL) for part in pair if part]
