"""The audit at the end of a drill: computes every vector again and compares it with the stored one."""

from dataclasses import dataclass

import numpy as np

from tests.drills.harness import WIDTH, Finding, Site
from tests.protocol_server import ProtocolServer
from tests.protocol_vectors import embed


@dataclass(frozen=True)
class Audit:
    """The state of the table. `wrong_vectors` belong to another text; `without_row` are queue entries of deleted rows."""

    rows: int
    embedded: int
    wrong_vectors: int
    unverified: int
    queued: int
    without_row: int

    def judge(self, finding: Finding) -> None:
        """Expect that every row is embedded, that every vector belongs to its text, and that the queue is empty."""
        finding.expect(self.embedded == self.rows, f"{self.rows - self.embedded} of {self.rows} rows have no vector")
        finding.expect(self.wrong_vectors == 0, f"{self.wrong_vectors} vectors belong to another text")
        finding.expect(self.unverified == 0, f"verify_embeddings finds {self.unverified} wrong vectors")
        finding.expect(self.queued == 0, f"{self.queued} entries are left in the queue")
        finding.expect(self.without_row == 0, f"{self.without_row} queue entries belong to deleted rows")


def audit(site: Site, expected: int | None = None, *, prefix: str = "", width: int = WIDTH) -> Audit:
    """Read the whole table and compute every vector again from its row's text.

    Of the `expected` rows, those that are missing count as not embedded.
    """
    with site.connect() as owner:
        rows = owner.execute(
            "select embedding.document_text(m), m.embedding::text from music_knowledge m"
            " where embedding.document_text(m) is not null"
        ).fetchall()
        (unverified,) = owner.execute("select verify_embeddings('music_knowledge')").fetchone() or (-1,)
        (queued,) = owner.execute("select count(*) from embedding.queue").fetchone() or (-1,)
        (without_row,) = owner.execute(
            "select count(*) from embedding.queue q where not exists"
            " (select from music_knowledge m where m.id = q.row_id::uuid)"
        ).fetchone() or (-1,)
    held = [(text, vector) for text, vector in rows if vector is not None]
    wrong = sum(not is_vector_of(vector, prefix + text, width) for text, vector in held)
    return Audit(max(len(rows), expected or 0), len(held), wrong, unverified, queued, without_row)


def is_vector_of(vector: str, text: str, width: int = WIDTH) -> bool:
    """Whether a stored vector is the protocol server's vector of the text."""
    stored = np.fromstring(vector.strip("[]"), dtype=np.float32, sep=",")
    return stored.shape == (width,) and bool(np.allclose(stored, embed(text, width), atol=1e-4))


def verify(site: Site, server: ProtocolServer, finding: Finding, **environment: str) -> None:
    """Expect that `backfill.py --verify --json` embeds nothing and finds no wrong vector."""
    program = site.backfill(server, "--verify", "--json", **environment)
    code = program.finish(60)
    finding.expect(code == 0, f"--verify exits {code}: {program.stderr.strip()[-300:]}")
    finding.expect("0 rows have a wrong vector" in program.stderr, f"--verify says: {program.stderr.strip()[-300:]}")
