"""Tests synonym search on a judged set: semantic search finds rows that full-text search cannot find."""

from pathlib import Path

import pytest

from tests.commands.conftest import Command

# Open English WordNet's music part, in BEIR's layout; see its README there.
DATA = Path(__file__).resolve().parents[3] / "shared/data/music_wordnet"


@pytest.mark.drill
@pytest.mark.skipif(not DATA.exists(), reason="needs the judged sets in ../shared/data")
def test_semantic_search_adds_at_least_fifteen_points_to_full_text(command: Command) -> None:
    result = command(
        "evaluate.py", "--dataset", str(DATA), "--collection", "mir_synonyms", "--json", ONNX_MODEL="<unset>"
    )
    assert result.code == 0, result.stderr
    scores = result.report
    assert scores["hybrid"]["ndcg@10"] >= scores["full_text"]["ndcg@10"] + 0.15
    assert scores["full_text"]["ndcg@10"] >= 0.3
