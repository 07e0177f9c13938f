"""Reads the code blocks of the documents and their marks (`not run`, `run by`).

A block is run as it stands unless the line before it is one of these comments:

    <!-- not run: REASON -->
    <!-- run by tests/FOLDER/FILE.py -->
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# What test_documents.py can run, and what it compares with the output of the block before.
RUN = ("bash", "sql", "python")
OUTPUT = "json"

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason(self) -> str | None:
        """The reason why the block is not run; None if it is run."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else None

    @property
    def test(self) -> str | None:
        """The test file that runs the block, if it is not test_documents.py."""
        return self.mark.removeprefix("run by ") if self.mark.startswith("run by ") else None


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"],
            textwrap.dedent(match["text"]),
            match["mark"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
