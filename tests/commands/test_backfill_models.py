"""Tests scripts/backfill.py with collections of different models, and of models that cannot be used here."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.commands.conftest import Command
from tests.database.rows import Connection, add
from tests.protocol_server import ProtocolServer

OPENAI_MODEL = "text-embedding-3-small"


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    with ProtocolServer(api_key="key-of-the-test") as running:
        yield running


@pytest.fixture
def openai(server: ProtocolServer) -> dict[str, str]:
    return {"OPENAI_API_KEY": "key-of-the-test", "OPENAI_BASE_URL": server.openai_url}


def track(owner: Connection, table: str, width: str = "", model: str | None = None) -> None:
    owner.execute(f"create table {table} (id int primary key, body text, embedding extensions.vector{width})")
    owner.execute(
        f"create function embedding.document_text(n {table}) returns text language sql immutable return n.body"
    )
    owner.execute("select track_embeddings(%s, model => %s)", [table, model])


def write(owner: Connection, table: str, row_id: int, body: str) -> None:
    owner.execute(f"insert into {table} (id, body) values (%s, %s)", [row_id, body])


def models(owner: Connection, table: str) -> list[Any]:
    rows = owner.execute(f"select embedding_model from {table} where embedding is not null").fetchall()
    return [model for (model,) in rows]


@pytest.fixture
def notes(owner: Connection, command: Command, openai: dict[str, str]) -> None:
    """music_knowledge is embedded in the process, notes with OpenAI; each has one more row that is pending."""
    track(owner, "notes")
    write(owner, "notes", 1, "a note")
    add(owner, "a row")
    assert command("backfill.py", "--collection", "music_knowledge").code == 0
    moved = command("backfill.py", "--collection", "notes", "--switch-model", f"openai:{OPENAI_MODEL}", **openai)
    assert moved.code == 0, moved.stderr
    write(owner, "notes", 2, "another note")
    add(owner, "another row")


def parts(report: dict[str, Any]) -> dict[str, tuple[Any, int]]:
    return {one["collection"]: (one["model"], one["embedded"]) for one in report["collections"]}


def test_each_collection_is_embedded_with_its_own_model(
    owner: Connection, command: Command, notes: None, openai: dict[str, str], server: ProtocolServer
) -> None:
    before = len(server.calls)
    result = command("backfill.py", "--json", "--verify", **openai)
    assert result.code == 0, result.stderr
    assert "notes: the model is not the one of the settings; --switch-model moves a collection" in result.stderr
    done = parts(result.report)
    assert (done["notes"], done["music_knowledge"][1]) == ((OPENAI_MODEL, 1), 1)
    assert result.report["model"] is None
    assert [call.inputs for call in server.calls[before:]] == [["another note"]]
    assert models(owner, "notes") == [OPENAI_MODEL] * 2
    assert len(set(models(owner, "music_knowledge")) | {OPENAI_MODEL}) == 2
    # A changed setting alone does not move a collection to another model.
    add(owner, "a third row")
    changed = command("backfill.py", "--collection", "music_knowledge", EMBEDDING_PROVIDER="openai", **openai)
    assert (changed.code, len(set(models(owner, "music_knowledge")))) == (0, 1)
    assert "music_knowledge: the model is not the one of the settings" in changed.stderr


def test_a_collection_without_a_provider_is_reported_and_skipped_with_exit_code_1(
    owner: Connection, command: Command, notes: None
) -> None:
    result = command("backfill.py", "--json")
    assert result.code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: notes: OPENAI_API_KEY: is needed for the model {OPENAI_MODEL}; set it, or ")
    assert "--switch-model" in line
    done = parts(result.report)
    assert (done["notes"], done["music_knowledge"][1]) == ((OPENAI_MODEL, 0), 1)
    runs = (
        "select r.status, r.model, r.error from embedding.runs r join embedding.collections c on c.id = collection_id"
    )
    runs += " where c.name = 'notes' order by r.started_at desc limit 1"
    (status, model, error) = owner.execute(runs).fetchone() or (None, None, None)
    assert (status, model) == ("failed", OPENAI_MODEL)
    assert "OPENAI_API_KEY" in str(error)

    dry = command("backfill.py", "--dry-run")
    assert (dry.code, "OPENAI_API_KEY" in dry.stderr) == (1, True)
    assert "music_knowledge" in dry.stdout
    alone = command("backfill.py", "--collection", "notes")
    assert (alone.code, alone.stdout) == (2, "")
    assert alone.stderr.startswith("error: notes: OPENAI_API_KEY: ")


def test_collections_with_the_same_problem_are_one_line(owner: Connection, command: Command) -> None:
    result = command("backfill.py", ONNX_MODEL="/no/such/folder")
    assert (result.code, result.stdout) == (2, "")
    (line,) = result.stderr.strip().splitlines()
    assert "music_knowledge" in line
    assert "datasets" in line
    assert "ONNX_MODEL" in line


def test_vectors_of_another_program_are_left_alone_until_a_row_is_pending(owner: Connection, command: Command) -> None:
    owner.execute("select register_embedding_model('my-clip', 'mine', 3)")
    track(owner, "pictures", model="my-clip")
    owner.execute("insert into pictures (id, body, embedding) values (1, 'a picture', '[1, 0, 0]')")
    add(owner, "a row")
    quiet = command("backfill.py", "--verify", "--json")
    assert quiet.code == 0, quiet.stderr
    assert parts(quiet.report)["pictures"] == ("my-clip", 0)
    assert "pictures: 0 rows have a wrong vector" in quiet.stderr
    write(owner, "pictures", 2, "a picture without a vector")
    result = command("backfill.py")
    assert result.code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(
        'error: pictures: the provider of the model my-clip, "mine", is none of onnx, ollama, openai'
    )


def test_a_pending_row_of_another_program_is_found_although_no_queue_lists_it(
    owner: Connection, command: Command
) -> None:
    owner.execute("select register_embedding_model('my-clip', 'mine', 3)")
    track(owner, "pictures", model="my-clip")
    owner.execute("set session_replication_role = replica")
    write(owner, "pictures", 1, "a replicated picture")
    owner.execute("reset session_replication_role")
    queue = "select count(*) from embedding.queue"
    dry = command("backfill.py", "--dry-run")
    assert (dry.code, owner.execute(queue).fetchone()) == (0, (0,)), "a dry run changes nothing"
    result = command("backfill.py")
    assert result.code == 1
    assert result.stderr.startswith("error: pictures: the provider of the model my-clip")


def test_vectors_of_another_program_are_reported_and_replaced_only_by_name(owner: Connection, command: Command) -> None:
    owner.execute("select register_embedding_model('my-clip', 'mine', 3)")
    track(owner, "pictures")
    owner.execute(
        "insert into pictures (id, body, embedding, embedding_model) values (1, 'a picture', '[1, 0, 0]', 'my-clip')"
    )
    held = "select embedding_model, vector_dims(embedding) from pictures"
    owner.execute("set search_path = public, extensions")
    for _ in range(2):
        plain = command("backfill.py", "--collection", "pictures", "--verify")
        assert plain.code == 0, plain.stderr
        assert (
            "pictures: 1 rows have vectors of the model my-clip, which no provider here makes; --replace-foreign replaces them"
        ) in plain.stderr
        assert owner.execute(held).fetchall() == [("my-clip", 3)]
    assert command("backfill.py", "--collection", "pictures", "--dry-run", "--json").report["rows"] == 0
    replaced = command("backfill.py", "--collection", "pictures", "--replace-foreign")
    assert replaced.code == 0, replaced.stderr
    assert "my-clip, which" not in replaced.stderr
    assert owner.execute(held).fetchall() == [("small-bert", 24)]


def test_a_column_of_another_width_is_reported_before_a_request_and_the_others_are_embedded(
    owner: Connection, command: Command, openai: dict[str, str], server: ProtocolServer
) -> None:
    track(owner, "notes", "(24)")
    write(owner, "notes", 1, "a note")
    add(owner, "a row")
    settings = {**openai, "EMBEDDING_PROVIDER": "openai"}
    dry = command("backfill.py", "--dry-run", **settings)
    assert dry.code == 1
    expected = "error: notes: the column embedding of table public.notes holds vectors of 24 dimensions"
    assert dry.stderr.startswith(expected)
    assert "music_knowledge" in dry.stdout
    target = f"openai:{OPENAI_MODEL}"
    for flags in ([], ["--dry-run"]):
        alone = command("backfill.py", "--collection", "notes", "--switch-model", target, *flags, **openai)
        assert (alone.code, alone.stdout) == (2, "")
        assert "holds vectors of 24 dimensions" in alone.stderr
    assert server.calls == []
    result = command("backfill.py", "--json", **settings)
    assert result.code == 1
    assert result.stderr.startswith(expected)
    assert parts(result.report)["music_knowledge"] == (OPENAI_MODEL, 1)
    assert len(server.calls) == 1


def test_a_model_that_is_registered_with_another_width_is_reported(
    owner: Connection, command: Command, openai: dict[str, str]
) -> None:
    owner.execute("select register_embedding_model(%s, 'openai', 8)", [OPENAI_MODEL])
    track(owner, "notes", model=OPENAI_MODEL)
    write(owner, "notes", 1, "a note")
    add(owner, "a row")
    result = command("backfill.py", **openai)
    assert result.code == 1
    assert f"error: notes: {OPENAI_MODEL} is registered with 8 dimensions, but its provider openai makes 1536" in (
        result.stderr
    )
    assert models(owner, "music_knowledge")
