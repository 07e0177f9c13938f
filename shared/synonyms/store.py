"""Calls the SQL functions for tags and their synonyms; each method has the name of its function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from shared.database.base import Database
from shared.embedding.shipped import needs_collection
from shared.models import Tag

TagType = Literal["genre", "mood"]

# Reads the columns of a claimed tag, in the order of the fields of Tag.
_OF_A_TAG = itemgetter("tag_type", "tag_id", "tag_name", "description", "related", "attempts")


@dataclass(frozen=True, slots=True)
class SynonymStore:
    """Reads and writes synonyms as service_role, and the queue of tags that wait for the generator.

    Every call raises NotFound if the database was set up without mir_synonyms.
    """

    database: Database

    def synonyms_version(self, role: str) -> str | None:
        """A value that changes with every change of tags and synonyms; it is part of the keys of cached answers.

        None if this role does not see every row: its answers must not be cached, because a policy may change at any time.
        """
        found = self._call("synonyms_version", caller=role)
        return found[0] if found else None

    def create_synonyms(self, tag_type: str, synonyms: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Write a tag's synonyms; inactive ones are replaced. `options`: tag_id or tag_name, and confidence.

        Raises NotFound if there is no such tag, Conflict if it has active synonyms.
        """
        return dict(self._call("create_synonyms", tag_type=tag_type, synonyms=synonyms, **options)[0])

    def update_synonyms(self, synonyms_id: int, **changes: Any) -> dict[str, Any]:
        """Change the given values of `changes` (synonyms, confidence, is_active) that are not None.

        Raises NotFound if there are no such synonyms, Conflict if they were changed after `expected_updated_at`.
        """
        return dict(self._call("update_synonyms", synonyms_id=synonyms_id, **changes)[0])

    def request_synonyms(
        self, tag_type: str | None = None, tag_ids: Sequence[int] | None = None, *, force: bool = False
    ) -> int:
        """Queue the tags that have no synonyms for their current name; returns how many were queued."""
        ids = None if tag_ids is None else list(tag_ids)
        return int(self._call("request_synonyms", tag_type=tag_type, tag_ids=ids, force=force)[0])

    def claim_synonym_tags(self, batch_size: int = 1, lease_seconds: int = 900) -> list[Tag]:
        """Lease queued tags, oldest request first."""
        rows = self._call("claim_synonym_tags", batch_size=batch_size, lease_seconds=lease_seconds)
        return [Tag(*_OF_A_TAG(row)) for row in rows]

    def store_generated_synonyms(self, tag: Tag, synonyms: Mapping[str, Any], model: str) -> tuple[str, int | None]:
        """Store generated synonyms; returns the outcome and the id of the synonyms.

        The outcome is `stored`, `stale` if the tag was renamed or deleted, or `kept` if a user has written its synonyms.
        """
        key = {"tag_type": tag.tag_type, "tag_id": tag.tag_id, "tag_name": tag.name}
        (row,) = self._call("store_generated_synonyms", **key, synonyms=synonyms, model=model)
        return row["outcome"], row["id"]

    def fail_synonym_tag(self, tag: Tag, error: str, *, final: bool) -> bool:
        """Record a failed attempt for a tag; returns True if the tag is now failed and will not be tried again."""
        failed = self._call("fail_synonym_tag", tag_type=tag.tag_type, tag_id=tag.tag_id, error=error, final=final)
        return failed == [True]

    def release_synonym_tag(self, tag: Tag) -> None:
        """Release a tag without counting an attempt."""
        self._call("release_synonym_tag", tag_type=tag.tag_type, tag_id=tag.tag_id)

    def synonym_coverage(self) -> list[dict[str, Any]]:
        """One row for each tag type: tags, active, without, waiting, ready, failed."""
        return self._call("synonym_coverage")

    def list_failed_synonyms(self, max_rows: int = 100) -> list[dict[str, Any]]:
        """Failed tags with the reason, latest first."""
        return self._call("list_failed_synonyms", max_rows=max_rows)

    def embedding_is_under_way(self) -> bool:
        """Whether a backfill is active on this database."""
        return bool(self.database.call("running_embedding_runs"))

    def _call(self, function: str, **arguments: Any) -> list[Any]:
        with needs_collection(self.database, "mir_synonyms"):
            return self.database.call(function, arguments)
