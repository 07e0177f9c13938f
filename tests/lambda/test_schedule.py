"""The scheduled worker under the real awslambdaric client: rows first, then synonyms, within its time."""

from tests.conftest import Connection
from tests.lambda_runtime import Start
from tests.protocol_server import ProtocolServer

SCHEDULE = {
    "version": "0", "id": "1", "detail-type": "Scheduled Event", "source": "aws.events", "account": "1",
    "time": "2026-11-21T00:00:00Z", "region": "eu-central-1", "resources": ["arn:aws:events:rule/r"], "detail": {},
}  # fmt: skip


def test_the_schedule_drains_the_queue_cold_and_warm(start: Start, owner: Connection) -> None:
    worker = start("worker")
    for number in (1, 2):
        owner.execute("insert into public.music_knowledge (topic) values (%s)", [f"topic {number}"])
        outcome = worker.invoke(SCHEDULE)
        assert outcome.error is None
        assert (outcome.answer["status"], outcome.answer["embedded"]) == ("completed", 1)


def wait_for_synonyms(owner: Connection, name: str) -> None:
    """Insert a tag that waits for synonyms."""
    owner.execute("insert into public.genre_tags (name) values (%s)", [name])
    owner.execute("select public.request_synonyms()")


def test_the_schedule_generates_queued_synonyms_after_the_rows(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    worker = start("worker", GENERATION_PROVIDER="openai")
    owner.execute("insert into public.music_knowledge (topic) values ('harp')")
    wait_for_synonyms(owner, "Zouk")
    outcome = worker.invoke(SCHEDULE)
    assert outcome.error is None
    assert (outcome.answer["status"], outcome.answer["embedded"]) == ("completed", 1)
    written = outcome.answer["synonyms"]
    assert (written["status"], written["embedded"], written["failed"], written["error"]) == ("completed", 1, 0, None)
    assert written["task_id"] != outcome.answer["task_id"], "a separate run"
    assert [call.path for call in openai_server.calls][:2] == ["/v1/embeddings", "/v1/chat/completions"]
    assert owner.execute("select source, embedding is not null from public.mir_synonyms").fetchall() == [
        ("generated", True)
    ]
    assert "synonyms" not in worker.invoke(SCHEDULE).answer, "no tag waits any more"


def test_without_a_generator_the_schedule_leaves_tags_alone(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    wait_for_synonyms(owner, "Zouk")
    outcome = start("worker").invoke(SCHEDULE)
    assert (outcome.answer["status"], "synonyms" in outcome.answer) == ("completed", False)
    assert openai_server.calls == []
    assert owner.execute("select attempts from embedding.synonym_queue").fetchall() == [(0,)]


def test_a_failing_generator_does_not_lose_embedded_rows(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    openai_server.fail("quota", times=None, containing='"tag"')
    owner.execute("insert into public.music_knowledge (topic) values ('harp')")
    wait_for_synonyms(owner, "Zouk")
    outcome = start("worker", GENERATION_PROVIDER="openai").invoke(SCHEDULE)
    assert outcome.error is None
    assert (outcome.answer["status"], outcome.answer["embedded"]) == ("completed", 1)
    written = outcome.answer["synonyms"]
    assert (written["status"], written["embedded"]) == ("failed", 0)
    assert "quota" in written["error"]


def test_synonyms_are_written_if_embedding_rows_fails(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    openai_server.fail("quota", times=None, containing="harp")
    owner.execute("insert into public.music_knowledge (topic) values ('harp')")
    wait_for_synonyms(owner, "Zouk")
    outcome = start("worker", GENERATION_PROVIDER="openai").invoke(SCHEDULE)
    assert outcome.error is None
    assert (outcome.answer["status"], outcome.answer["embedded"]) == ("failed", 0)
    assert "quota" in outcome.answer["error"]
    written = outcome.answer["synonyms"]
    assert (written["status"], written["embedded"]) == ("completed", 1)


def test_an_error_in_claiming_tags_does_not_lose_embedded_rows(start: Start, owner: Connection) -> None:
    owner.execute("insert into public.music_knowledge (topic) values ('harp')")
    owner.execute("drop function public.synonym_coverage")
    outcome = start("worker", GENERATION_PROVIDER="openai").invoke(SCHEDULE)
    assert outcome.error is None
    assert (outcome.answer["status"], outcome.answer["embedded"]) == ("completed", 1)
    assert outcome.answer["synonyms"]["status"] == "failed"
    assert "synonym_coverage" in outcome.answer["synonyms"]["error"]


def test_no_synonyms_are_started_without_time_left(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    openai_server.latency = 2
    owner.execute("insert into public.music_knowledge (topic) select 'topic ' || n from generate_series(1, 6000) n")
    wait_for_synonyms(owner, "Zouk")
    outcome = start("worker", GENERATION_PROVIDER="openai").invoke(SCHEDULE, seconds=8)
    assert outcome.error is None
    assert (outcome.answer["status"], "synonyms" in outcome.answer) == ("interrupted", False)
    assert {call.path for call in openai_server.calls} == {"/v1/embeddings"}


def test_the_worker_invokes_another_worker_before_its_time_is_up(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    openai_server.latency = 0.5
    owner.execute("insert into public.music_knowledge (topic) select 'topic ' || n from generate_series(1, 200) n")
    worker = start("worker")
    event = {"task_id": "00000000-0000-4000-8000-000000000001", "collection": "music_knowledge", "batch_size": 2}
    outcome = worker.invoke(event, seconds=5)
    assert outcome.error is None
    assert outcome.answer["status"] == "interrupted"
    assert 0 < outcome.answer["embedded"] < 200
    assert owner.execute("select count(*) from embedding.queue where leased_at is not null").fetchone() == (0,)
