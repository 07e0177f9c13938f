"""Tags and their synonyms: the SQL functions of these names, with their types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.database.base import Database
from shared.embedding.shipped import needs_collection
from shared.models import Tag

TagType = Literal["genre", "mood"]


@dataclass(frozen=True, slots=True)
class SynonymStore:
    """Synonyms as service_role writes them, and the queue of tags that wait for the generator.

    Every call raises NotFound where the database was set up without mir_synonyms.
    """

    database: Database

    def synonyms_version(self) -> str:
        """Names the present state of tags and synonyms: an answer made under it is still right."""
        return str(self._call("synonyms_version")[0])

    def create_synonyms(
        self,
        tag_type: str,
        synonyms: Mapping[str, Any],
        *,
        tag_id: int | None = None,
        tag_name: str | None = None,
        confidence: float | None = None,
    ) -> dict[str, Any]:
        """Write a tag's synonyms; inactive ones are replaced. Raises NotFound for the tag, Conflict where it has active ones."""
        return self._row(
            "create_synonyms",
            tag_type=tag_type,
            synonyms=dict(synonyms),
            tag_id=tag_id,
            tag_name=tag_name,
            confidence=confidence,
        )

    def update_synonyms(
        self,
        synonyms_id: int,
        *,
        synonyms: Mapping[str, Any] | None = None,
        confidence: float | None = None,
        is_active: bool | None = None,
        expected_updated_at: str | None = None,
    ) -> dict[str, Any]:
        """Change what is not None. Raises NotFound, and Conflict where they were changed after `expected_updated_at`."""
        return self._row(
            "update_synonyms",
            synonyms_id=synonyms_id,
            synonyms=None if synonyms is None else dict(synonyms),
            confidence=confidence,
            is_active=is_active,
            expected_updated_at=expected_updated_at,
        )

    def request_synonyms(
        self, tag_type: str | None = None, tag_ids: Sequence[int] | None = None, *, force: bool = False
    ) -> int:
        """Queue the tags that have no synonyms for their present name; returns how many."""
        arguments = {"tag_type": tag_type, "tag_ids": None if tag_ids is None else list(tag_ids), "force": force}
        return int(self._call("request_synonyms", arguments)[0])

    def claim_synonym_tags(self, batch_size: int = 1, lease_seconds: int = 900) -> list[Tag]:
        """Lease tags that wait, oldest request first."""
        rows = self._call("claim_synonym_tags", {"batch_size": batch_size, "lease_seconds": lease_seconds})
        return [
            Tag(
                row["tag_type"],
                row["tag_id"],
                row["tag_name"],
                row["description"],
                tuple(row["related"]),
                row["attempts"],
            )
            for row in rows
        ]

    def store_generated_synonyms(self, tag: Tag, synonyms: Mapping[str, Any], model: str) -> tuple[str, int | None]:
        """(stored | stale | kept, id): stale is an answer about a name that the tag has no longer."""
        row = self._row(
            "store_generated_synonyms",
            tag_type=tag.tag_type,
            tag_id=tag.tag_id,
            tag_name=tag.name,
            synonyms=dict(synonyms),
            model=model,
        )
        return row["outcome"], row["id"]

    def fail_synonym_tag(self, tag: Tag, error: str, *, final: bool) -> bool:
        """Report a tag that no synonyms could be written for; True if the tag has now failed."""
        arguments = {"tag_type": tag.tag_type, "tag_id": tag.tag_id, "error": error, "final": final}
        return self._call("fail_synonym_tag", arguments) == [True]

    def release_synonym_tag(self, tag: Tag) -> None:
        """Give a tag back untried."""
        self._call("release_synonym_tag", {"tag_type": tag.tag_type, "tag_id": tag.tag_id})

    def synonym_coverage(self) -> list[dict[str, Any]]:
        """A row a tag type: tags, active, without, waiting, ready, failed."""
        return self._call("synonym_coverage")

    def list_failed_synonyms(self, max_rows: int = 100) -> list[dict[str, Any]]:
        """Failed tags and why, latest first."""
        return self._call("list_failed_synonyms", {"max_rows": max_rows})

    def embedding_is_under_way(self) -> bool:
        """Whether a backfill is at work anywhere."""
        return bool(self.database.call("running_embedding_runs"))

    def _row(self, function: str, **arguments: Any) -> dict[str, Any]:
        row: dict[str, Any] = self._call(function, arguments)[0]
        return row

    def _call(self, function: str, arguments: Mapping[str, Any] | None = None) -> list[Any]:
        with needs_collection(self.database, "mir_synonyms"):
            return self.database.call(function, arguments)
