"""Tests that single texts are joined into batches of limited size and in order, and that each gets its own answer."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import pytest

from shared.deadline import Deadline
from shared.embedding import texts as embedding
from shared.embedding.microbatch import MicroBatcher
from shared.embedding.texts import EmbeddingService
from shared.errors import Overloaded, ProviderInputRejected, ProviderUnavailable
from shared.models import Embeddings
from tests.fake_provider import FakeProvider


class Engine:
    """Returns vectors that contain their text's number; waits for an event."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.deadlines: list[Deadline | None] = []
        self.threads = ThreadPoolExecutor(1)
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str], deadline: Deadline | None) -> Embeddings:
        self.batches.append(list(texts))
        self.deadlines.append(deadline)
        self.arrived.set()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        errors = {index: ProviderInputRejected("bad") for index, text in enumerate(texts) if text.startswith("bad")}
        vectors = np.array([[float(text.split()[-1])] for text in texts], dtype=np.float32)
        return Embeddings(vectors, tokens=10 * len(texts), errors=errors)

    def batcher(self) -> MicroBatcher:
        return MicroBatcher(self.embed, self.threads)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.gate.set()
    engine.threads.shutdown()


def value(answer: "Future[Embeddings]") -> float:
    return float(answer.result(10).vectors[0][0])


def test_a_lone_text_is_sent_at_once(engine: Engine) -> None:
    assert value(engine.batcher().submit("text 7")) == 7


def test_a_joined_request_has_the_deadline_of_its_latest_text(engine: Engine) -> None:
    batcher = engine.batcher()
    engine.gate.clear()
    first, last = Deadline(10), Deadline(20)
    answers = [batcher.submit("text 0")]
    assert engine.arrived.wait(5)
    answers += [batcher.submit("text 1", first), batcher.submit("text 2", last)]
    engine.gate.set()
    wait(answers, 10)
    assert engine.deadlines == [None, last]


def test_texts_that_arrive_during_a_request_are_sent_together_in_order(engine: Engine) -> None:
    batcher = engine.batcher()
    engine.gate.clear()
    first = batcher.submit("text 0")
    assert engine.arrived.wait(5)
    others = [batcher.submit(f"text {number}") for number in range(1, 300)]
    engine.gate.set()
    assert [value(answer) for answer in [first, *others]] == list(range(300))
    assert [len(batch) for batch in engine.batches] == [1, 256, 43]
    assert [text for batch in engine.batches for text in batch] == [f"text {number}" for number in range(300)]


def test_equal_texts_are_embedded_once_and_each_caller_gets_the_vector(engine: Engine) -> None:
    batcher = engine.batcher()
    engine.gate.clear()
    first = batcher.submit("text 0")
    assert engine.arrived.wait(5)
    same = [batcher.submit("text 5") for _ in range(20)]
    engine.gate.set()
    wait([first, *same], 10)
    assert [value(answer) for answer in same] == [5] * 20
    assert engine.batches == [["text 0"], ["text 5"]]


def test_a_refused_text_fails_alone_and_a_lost_engine_fails_all(engine: Engine) -> None:
    batcher = engine.batcher()
    engine.gate.clear()
    first = batcher.submit("text 0")
    assert engine.arrived.wait(5)
    good, bad = batcher.submit("text 1"), batcher.submit("bad 2")
    engine.gate.set()
    assert value(good) == 1
    with pytest.raises(ProviderInputRejected):
        bad.result(10)
    assert value(first) == 0
    engine.error = ProviderUnavailable()
    with pytest.raises(ProviderUnavailable):
        batcher.submit("text 3").result(10)
    engine.error = None
    assert value(batcher.submit("text 4")) == 4


def test_the_shares_of_the_tokens_add_up(engine: Engine) -> None:
    batcher = engine.batcher()
    engine.gate.clear()
    batcher.submit("text 0")
    assert engine.arrived.wait(5)
    answers = [batcher.submit("text " + "0" * number + "1") for number in range(7)]
    engine.gate.set()
    assert sum(answer.result(10).tokens for answer in answers) == 70
    assert answers[6].result().tokens > answers[0].result().tokens


def test_cancelled_texts_are_not_sent(engine: Engine) -> None:
    batcher = engine.batcher()
    engine.gate.clear()
    first = batcher.submit("text 0")
    assert engine.arrived.wait(5)
    gone, stays = batcher.submit("text 1"), batcher.submit("text 2")
    assert gone.cancel()
    engine.gate.set()
    assert (value(first), value(stays)) == (0, 2)
    assert engine.batches == [["text 0"], ["text 2"]]
    assert batcher.submit("text 5").result(10)
    assert [] not in engine.batches


def test_the_limit_counts_texts_of_all_requests_and_is_released_afterwards(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "MAX_TEXTS_WAITING", 10)
    service = EmbeddingService(lambda: provider, joins=True)
    gate = provider.wire.gate = threading.Event()
    large = service.submit([f"text {number}" for number in range(10)], "document", "b")
    with pytest.raises(Overloaded):
        service.submit(["one more"], "document", "b")
    gate.set()
    large.result(10)
    service.submit(["one more"], "document", "b").result(10)
    deadline = time.monotonic() + 5
    while service.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.waiting == 0
    service.close()


def test_queries_and_documents_are_not_joined(provider: FakeProvider) -> None:
    service = EmbeddingService(lambda: provider, joins=True, workers=1)
    service.submit(["a"], "document", "b").result(10)
    service.submit(["a"], "query", "b").result(10)
    assert provider.wire.requests == [["a"], ["a"]]
    service.close()
