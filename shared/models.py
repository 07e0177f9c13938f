"""Data classes that the layers exchange, such as models, claimed rows and search hits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from shared.errors import ProviderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
else:
    # Not imported at runtime: numpy takes 0.2 s, and some functions start without needing vectors.
    Vectors = Any


def shortened_model_name(model: str, dimensions: int | None) -> str:
    """The name under which a model is registered: `text-embedding-3-small@512` if a reduced width is requested."""
    return f"{model}@{dimensions}" if dimensions else model


class ModelName(NamedTuple):
    """The parts of a model's name in the database: the provider's name of the model, and settings that change its vectors.

    `input_types` are those of InputRules; `prefixed` is true if the settings have a document prefix.
    """

    model: str
    width: int | None = None
    input_types: tuple[str, str] | None = None
    prefixed: bool = False


_NAME = re.compile(r"(.+?)(?:@(\d+))?(?:#([^#,]+),([^#,]+))?(#[0-9a-f]{8})?", re.DOTALL)


def split_model_name(name: str) -> ModelName:
    """Split a name that `shortened_model_name` and `InputRules.apply` have made."""
    found = _NAME.fullmatch(name)
    if found is None:
        return ModelName(name)
    model, width, query, document, digest = found.groups()
    return ModelName(model, int(width) if width else None, (query, document) if query else None, digest is not None)


# Some models are trained with different inputs for stored texts and for queries.
InputKind = Literal["document", "query"]


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model as it is registered in the database; vectors of different models are never compared.

    `name` identifies the vector space, not only the weights, so a reduced width has another name
    (`text-embedding-3-small@512`). The model ignores the part of a text after `max_tokens`.
    """

    name: str
    provider: str
    dimensions: int
    document_prefix: str = ""
    query_prefix: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class InputRules:
    """How the settings mark queries and documents for the model. None means: as the provider's code knows the model.

    `types` are the values of the field input_type, in requests with queries and in requests with documents.
    """

    query_prefix: str | None = None
    document_prefix: str | None = None
    types: tuple[str, str] | None = None

    def apply(self, model: EmbeddingModel) -> EmbeddingModel:
        """The model under these rules.

        Input types and a document prefix change the vectors, so they are part of the model's name: vectors that were made
        without them are never compared with vectors that were made with them. The query prefix changes no stored vector,
        so it does not change the name.
        """
        name = model.name
        if self.types is not None:
            name += "#" + ",".join(self.types)
        document = model.document_prefix if self.document_prefix is None else self.document_prefix
        if document != model.document_prefix:
            name += "#" + hashlib.sha256(document.encode()).hexdigest()[:8]
        query = model.query_prefix if self.query_prefix is None else self.query_prefix
        return replace(model, name=name, document_prefix=document, query_prefix=query)


AS_KNOWN = InputRules()


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one `embed`: row i of `vectors` belongs to text i.

    `vectors` is n x dimensions, float32, of unit length. `tokens` is the count of the provider, or of this program if the
    provider reports none. `cut` are the indices of texts that were cut because they are too long for the model. `calls` is
    the number of requests, with retries. `errors` maps the index of a text to the reason why it has no vector; its row in
    `vectors` is zero and must not be stored.
    """

    vectors: Vectors
    tokens: int = 0
    cut: frozenset[int] = frozenset()
    calls: int = 0
    errors: Mapping[int, ProviderError] = field(default_factory=dict)

    @property
    def truncated(self) -> int:
        """The number of texts that were cut."""
        return len(self.cut)


@dataclass(slots=True)
class Spent:
    """The number of requests to a provider and the tokens that they cost, even if an answer could not be used."""

    tokens: int = 0
    calls: int = 0

    def add(self, tokens: int, calls: int) -> None:
        """Add tokens and requests."""
        self.tokens += tokens
        self.calls += calls


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A row that is leased to this worker. `text_hash` is sent back with the vector, so that a stale vector is rejected.

    A `reused` row already has its vector, copied from an equal text, and is not leased.
    """

    row_id: str
    text: str
    text_hash: str
    attempts: int
    reused: bool = False


@dataclass(frozen=True, slots=True)
class NamedRow:
    """The result of a claim by key: `state` is claimed, embedded, leased, cleared, empty, unreadable or missing.

    The last three have no `row`.
    """

    asked_id: str
    state: str
    row: ClaimedRow | None


@dataclass(frozen=True, slots=True)
class QueueState:
    """The number of queued rows: ready to be claimed, leased to a worker, waiting for the next attempt, failed.

    The last two are read at the end of a run. For each model of another program, `foreign_vectors` has the number of
    rows that keep their vectors of this model. `lacks_index`: the run has embedded rows, and there are now enough
    vectors for an index, which is missing.
    """

    ready: int
    leased: int
    waiting: int
    failed: int
    foreign_vectors: Mapping[str, int] = field(default_factory=dict)
    lacks_index: bool = False

    @property
    def pending(self) -> int:
        """Rows that will still be tried."""
        return self.ready + self.leased + self.waiting


@dataclass(frozen=True, slots=True)
class Coverage:
    """The coverage of a collection: total = embedded + pending + failed.

    `estimated` is true if the table is large: its rows are then counted on a sample; `failed` and `leased` are exact.
    """

    collection: str
    model: str | None
    total: int
    embedded: int
    pending: int
    failed: int
    leased: int
    models: Mapping[str, int]
    estimated: bool


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """The result of a backfill.

    `processed` counts the rows that were claimed. Each was `embedded` (it has its vector), `failed` or `stale` (its text
    changed while it was embedded, so it stays pending). `reused` counts the embedded rows that got the vector of an equal
    text, at no cost. `cost_usd` is the number of tokens times the price, in USD.
    """

    collection: str
    model: str
    processed: int = 0
    embedded: int = 0
    failed: int = 0
    stale: int = 0
    reused: int = 0
    truncated: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


# The columns of a hit's score, which every search function returns.
SCORES = ("score", "full_text_score", "full_text_rank", "semantic_score", "semantic_rank")


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: its score, the parts of the score, and in `row` all columns of the answer, these included."""

    id: str
    score: float
    full_text_score: float | None
    full_text_rank: int | None
    semantic_score: float | None
    semantic_rank: int | None
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first. `degraded` is true if the query could not be embedded, so that only full-text search was used."""

    hits: Sequence[Hit]
    degraded: bool
    took_ms: float


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a search; row level security applies to their role and claims.

    `claims` come from a verified token; `token` is passed on if the database verifies it itself.
    """

    role: str
    claims: Mapping[str, object] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)


ANON = Caller("anon", {"role": "anon"})


@dataclass(frozen=True, slots=True)
class Tag:
    """A genre or mood that needs synonyms. `related` are the names of tags that may be related to it."""

    tag_type: str
    tag_id: int
    name: str
    description: str = ""
    related: Sequence[str] = ()
    attempts: int = 0
