"""Tests the evaluation commands on a small judged set."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.commands.conftest import Command
from tests.protocol_server import ProtocolServer

KEY = "key-of-the-test"
ACTS = ("play", "tune", "buy", "record", "mend", "carry")
INSTRUMENTS = (
    "banjo",
    "bassoon",
    "celesta",
    "cello",
    "clarinet",
    "clavichord",
    "concertina",
    "cornet",
    "didgeridoo",
    "dulcimer",
    "erhu",
    "euphonium",
    "fiddle",
    "flute",
    "glockenspiel",
    "guitar",
    "harmonica",
    "harp",
    "harpsichord",
    "kalimba",
    "kazoo",
    "koto",
    "lute",
    "lyre",
    "mandolin",
    "marimba",
    "oboe",
    "ocarina",
    "organ",
    "piano",
    "piccolo",
    "recorder",
    "saxophone",
    "sitar",
    "tabla",
    "theremin",
    "trombone",
    "trumpet",
    "tuba",
    "ukulele",
)
TEXTS = [f"{act} the {instrument}" for act in ACTS for instrument in INSTRUMENTS]


def write_set(folder: Path, texts: Sequence[str]) -> Path:
    """Write documents in BEIR's layout; each is the only answer to a query with its words."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(texts)]
    queries = [{"_id": f"q{number}", "text": text} for number, text in enumerate(texts)]
    judgements = ["query-id\tcorpus-id\tscore", *(f"q{number}\td{number}\t1" for number in range(len(texts)))]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text("\n".join(judgements) + "\n")
    return folder


@pytest.fixture
def judged_set(tmp_path: Path) -> Path:
    """A judged set with 240 documents."""
    return write_set(tmp_path / "instruments", TEXTS)


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """A judged set with six documents, for tests that do not depend on the number."""
    return write_set(tmp_path / "six", TEXTS[:6])


def test_full_text_search_finds_the_row_that_holds_the_words(
    command: Command, judged_set: Path, small_set: Path
) -> None:
    result = command("evaluate.py", "--dataset", str(judged_set), "--limit", "40", "--json")
    assert result.code == 0, result.stderr
    assert result.report["full_text"]["ndcg@10"] == 1.0
    assert result.report["hybrid"]["ndcg@10"] == 1.0
    # The small engine has random weights, so its semantic hits are random.
    assert result.report["semantic"]["ndcg@10"] < 0.9
    refused = command("evaluate.py", "--dataset", str(small_set), "--fail-under", "1.01")
    assert refused.code == 1
    assert "below 1.01" in refused.stderr


def test_a_move_to_another_model_is_measured_before_midway_and_after(
    command: Command, judged_set: Path, small_set: Path
) -> None:
    with ProtocolServer(api_key=KEY) as server:
        openai = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.openai_url}
        to = ("--to", "openai:text-embedding-3-small")
        result = command("evaluate_switch.py", "--dataset", str(judged_set), "--limit", "40", *to, "--json", **openai)
        assert result.code == 0, result.stderr
        report = result.report
        assert report["rows"] == len(TEXTS)
        assert report["to"] == "text-embedding-3-small"
        assert [report[stage]["ndcg@10"] for stage in ("before", "midway", "after")] == [1.0, 1.0, 1.0]
        searches = report["searches"]
        assert (searches["failed"], searches["short"], searches["degraded"]) == (0, 0, 0)
        # Midway, half of the rows have a vector of the other model.
        assert searches["mixed"] > 0
        # No quality is lost here, so the command must fail with a negative limit for the loss.
        lossy = command("evaluate_switch.py", "--dataset", str(small_set), *to, "--max-loss", "-0.1", **openai)
        assert lossy.code == 1, lossy.stderr
