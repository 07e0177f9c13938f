"""What can be searched, and what a search can be told: known without loading a search."""

from collections.abc import Mapping

# The collections that have a search function, and the columns it filters by.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "music_knowledge": ("category",),
    "mir_synonyms": ("tag_type",),
    "datasets": ("tag",),
    "code_chunks": ("path",),
}
# What every search function can be told, and what more that of one collection.
COMMON_OPTIONS = ("full_text_weight", "semantic_weight", "fusion")
OPTIONS: Mapping[str, tuple[str, ...]] = {"datasets": ("static_weight", "decay_weight", "half_life_days")}
