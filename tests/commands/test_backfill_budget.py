"""Tests that scripts/backfill.py obeys EMBEDDING_BUDGET_PER_DAY over several runs."""

from collections.abc import Iterator

import pytest

from tests.commands.backfill_rows import MUSIC, embedded, held, texts
from tests.commands.conftest import Command
from tests.database.rows import Connection, add
from tests.database.spending import next_day, spent
from tests.protocol_server import ProtocolServer


@pytest.fixture
def openai() -> Iterator[ProtocolServer]:
    with ProtocolServer(api_key="key-of-the-test") as server:
        yield server


def settings_of(server: ProtocolServer, **more: str) -> dict[str, str]:
    return {
        "EMBEDDING_PROVIDER": "openai",
        "OPENAI_API_KEY": "key-of-the-test",
        "OPENAI_BASE_URL": server.openai_url,
        **more,
    }


def test_runs_share_the_budget_of_a_day_and_go_on_the_next_day(
    owner: Connection, command: Command, openai: ProtocolServer
) -> None:
    add(owner, *texts(40))
    settings = settings_of(openai, EMBEDDING_PRICE_PER_MILLION="1000")
    estimated = command("backfill.py", *MUSIC, "--dry-run", "--json", **settings).report["cost_usd"]
    settings["EMBEDDING_BUDGET_PER_DAY"] = f"{estimated / 2:.12f}"
    limited = ("backfill.py", *MUSIC, "--json", "--batch-size", "5")
    first = command(*limited, **settings)
    assert first.code == 1
    assert 0 < first.report["embedded"] < 40
    assert 0 < (spent(owner) or 0) <= estimated / 2
    assert spent(owner) == pytest.approx(first.report["cost_usd"])
    lines = [line for line in first.stderr.splitlines() if "EMBEDDING_BUDGET_PER_DAY" in line]
    assert len(lines) == 1
    assert "rows are left" in lines[0]
    assert held(owner) == 0

    calls = len(openai.calls)
    # Another process: its estimate does not fit either, with all rows in one batch.
    second = command("backfill.py", *MUSIC, "--json", **settings)
    assert (second.code, second.report["embedded"], len(openai.calls)) == (1, 0, calls)
    next_day(owner)
    third = command(*limited, **{**settings, "EMBEDDING_BUDGET_PER_DAY": f"{estimated:.12f}"})
    assert (third.code, embedded(owner)) == (0, 40), third.stderr


def test_a_model_without_a_known_price_is_refused_before_a_request(
    owner: Connection, command: Command, openai: ProtocolServer
) -> None:
    add(owner, *texts(3))
    settings = settings_of(
        openai, EMBEDDING_MODEL="house-model", EMBEDDING_DIMENSIONS="96", EMBEDDING_BUDGET_PER_DAY="1"
    )
    result = command("backfill.py", *MUSIC, **settings)
    assert result.code == 2
    assert "EMBEDDING_PRICE_PER_MILLION" in result.stderr
    assert openai.calls == []
    dry = command("backfill.py", *MUSIC, "--dry-run", "--json", **settings)
    assert (dry.code, dry.report["cost_usd"]) == (0, None)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("-1", "must be at least 0.0"),
        ("lots", "must be a number"),
        ("nan", "must be a number"),
        ("inf", "must be a number"),
    ],
)
def test_a_value_that_is_no_sum_is_one_line(command: Command, value: str, problem: str) -> None:
    result = command("backfill.py", *MUSIC, EMBEDDING_BUDGET_PER_DAY=value)
    assert (result.code, result.stderr) == (2, f"error: EMBEDDING_BUDGET_PER_DAY: {problem}\n")
