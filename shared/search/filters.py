"""Lists the searchable collections with their filters and options. To import this module loads no search code."""

from collections.abc import Mapping

# The collections that have a search function, and their filter columns.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "music_knowledge": ("category",),
    "mir_synonyms": ("tag_type",),
    "datasets": ("tag",),
    "code_chunks": ("path",),
}
# The options of every search function, and the additional options of single collections.
COMMON_OPTIONS = ("full_text_weight", "semantic_weight", "fusion")
OPTIONS: Mapping[str, tuple[str, ...]] = {"datasets": ("static_weight", "decay_weight", "half_life_days")}
