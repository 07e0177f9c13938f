"""Tests that the commands, files and settings in the documents exist."""

import re
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.documents import OUTPUT, PAGES, ROOT, RUN, blocks

README = ROOT / "README.md"
# drills.md quotes lines and names of former versions.
DOCUMENTS = [page for page in PAGES if page.name != "drills.md"]

# Former names of full-text search, semantic search and failed rows.
FORMER_NAMES = re.compile(
    r"\b(parked|legs?|keyword (search|score)|(search|found|ranked|hits?) by (its |their )?(words?|meaning))\b",
    re.IGNORECASE,
)
# Words that make a sentence hard to read, and the folders whose files must not contain them.
HARD_WORDS = re.compile(
    r"\b(nobody|somebody|anybody|whoever|told|anew|lets? go|hasten|twins?|unkept|parks?|furnish(ed)?|unsound|spoils?|strangers?"
    r"|whom|thereby|wherein)\b",
    re.IGNORECASE,
)
PLAIN = ("functions", "shared", "scripts", "supabase/schemas", "tests", "docs")


def targets() -> dict[str, str]:
    """The Makefile's targets, each with its line of `make help`."""
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


def test_no_file_uses_a_former_name() -> None:
    folders = ("functions", "shared", "scripts", "docs", "supabase/schemas")
    files = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    kinds = {".py", ".sql", ".js", ".css", ".html", ".md"}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in kinds
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORMER_NAMES.search(line)
    ]
    assert not found


def test_plain_files_use_no_hard_words() -> None:
    files = [*ROOT.glob("*.md"), *(path for folder in PLAIN for path in (ROOT / folder).rglob("*"))]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in {".py", ".sql", ".md", ".html", ".css"} and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if HARD_WORDS.search(line)
    ]
    assert not found


def test_every_target_says_what_it_does() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert [name for name in phony[1].split() if not targets().get(name)] == []


def test_every_flag_of_the_backfill_that_the_pages_name_exists() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCUMENTS)
    flags = set(re.findall(r"backfill\.py[^\n`]*?(--[a-z-]+)", text))
    source = (ROOT / "scripts/backfill.py").read_text(encoding="utf-8")
    # --help is argparse's own.
    assert [flag for flag in sorted(flags - {"--help"}) if f'"{flag}"' not in source] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    found = blocks(page)
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(found), "a fence that is no block"
    before = None
    for block in found:
        if block.test:
            test = (ROOT / block.test).read_text(encoding="utf-8")
            assert str(page.relative_to(ROOT)) in test, f"{block.place}: {block.test} does not name the page"
        elif block.mark:
            assert block.reason, f"{block.place}: the mark is `not run: REASON` or `run by TEST`"
        elif block.language == OUTPUT:
            assert before in RUN, f"{block.place}: the answer of no block"
        else:
            assert block.language in RUN, f"{block.place}: {block.language or 'no language'} is not run, mark it"
        before = block.language if not block.mark else None


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8"))
    assert (ROOT / picture).stat().st_size < 300_000


def test_a_version_has_at_most_20_lines_in_the_changelog() -> None:
    versions = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert [version.splitlines()[0] for version in versions if len(version.strip().splitlines()) > 20] == []


def code_of(document: Path) -> list[str]:
    """The text in backticks and in code blocks."""
    text = document.read_text(encoding="utf-8")
    return [part for pair in re.findall(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL) for part in pair if part]
