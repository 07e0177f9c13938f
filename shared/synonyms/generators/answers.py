"""Checks the synonyms that a chat model wrote, and refuses an invalid answer with the reason."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

MIN_TERMS, MAX_TERMS = 5, 10
MAX_TRANSLATIONS = 20
MAX_TERM_LENGTH = 100
MAX_USAGE_LENGTH = 1000
# The most characters of an answer: ten times the length of a good one.
MAX_ANSWER_LENGTH = 20_000

_KEYS = ("search_terms", "related_tags", "usage_context", "translations")
_TERM = {"type": "string"}
_LANGUAGE = {"type": "array", "items": _TERM, "minItems": 1, "maxItems": 6}

# The schema uses only features that both Ollama and OpenAI's strict mode support.
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "search_terms": {"type": "array", "items": _TERM, "minItems": MIN_TERMS, "maxItems": MAX_TERMS},
        "related_tags": {"type": "array", "items": _TERM, "minItems": 0, "maxItems": 5},
        "usage_context": {"type": "string"},
        "translations": {
            "type": "object",
            "properties": {"fr": _LANGUAGE, "en": _LANGUAGE},
            "required": ["fr", "en"],
            "additionalProperties": False,
        },
    },
    "required": list(_KEYS),
    "additionalProperties": False,
}


class InvalidAnswer(Exception):
    """The answer cannot be used. The message is sent to the model and stored with the failed tag."""


def read_synonyms(answer: str, tag_name: str, catalogue: Sequence[str]) -> dict[str, Any]:
    """The synonyms in an answer, with blanks trimmed. Raises InvalidAnswer.

    Related tags that are not in the catalogue are left out.
    """
    if len(answer) > MAX_ANSWER_LENGTH:
        raise InvalidAnswer(f"the answer is longer than {MAX_ANSWER_LENGTH} characters")
    if not answer.strip():
        raise InvalidAnswer("the answer is empty")
    try:
        entry = from_json(answer, allow_inf_nan=False)
    except ValueError:
        raise InvalidAnswer("the answer is not one JSON object: no text before or after it, no code fence") from None
    if not isinstance(entry, dict):
        raise InvalidAnswer("the answer is not a JSON object")
    _check_keys(entry, _KEYS, "the object")
    usage = entry["usage_context"]
    if not isinstance(usage, str) or len(usage) > MAX_USAGE_LENGTH or not _is_plain(usage):
        raise InvalidAnswer(f"usage_context is not a text of at most {MAX_USAGE_LENGTH} characters")
    translations = entry["translations"]
    if not isinstance(translations, dict):
        raise InvalidAnswer("translations is not an object")
    _check_keys(translations, ("fr", "en"), "translations")

    terms = _read_terms(entry["search_terms"], "search_terms", MIN_TERMS, MAX_TERMS)
    if normalise(tag_name) not in {normalise(term) for term in terms}:
        raise InvalidAnswer("search_terms does not hold the tag's own name")
    known = {normalise(name): name for name in catalogue}
    related = [known.get(normalise(term)) for term in _read_terms(entry["related_tags"], "related_tags", 0, 50)]
    return {
        "search_terms": terms,
        "related_tags": list(dict.fromkeys(name for name in related if name is not None)),
        "usage_context": usage.strip(),
        "translations": {
            language: _read_terms(translations[language], f"translations.{language}", 1, MAX_TRANSLATIONS)
            for language in ("fr", "en")
        },
    }


def normalise(term: str) -> str:
    """The term in lower case and Unicode form NFKC, with single spaces between its words."""
    return " ".join(unicodedata.normalize("NFKC", term).casefold().split())


def _read_terms(value: object, name: str, fewest: int, most: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(term, str) for term in value):
        raise InvalidAnswer(f"{name} is not a list of texts")
    if not fewest <= len(value) <= most:
        raise InvalidAnswer(f"{name} holds {len(value)} terms, not {fewest} to {most}")
    terms = [" ".join(term.split()) for term in value]
    if not all(terms):
        raise InvalidAnswer(f"{name} holds an empty text")
    if any(len(term) > MAX_TERM_LENGTH or not _is_plain(term) for term in terms):
        raise InvalidAnswer(
            f"{name} holds a term that is longer than {MAX_TERM_LENGTH} characters, or cannot be stored"
        )
    if len({normalise(term) for term in terms}) < len(terms):
        raise InvalidAnswer(f"{name} holds a term twice")
    return terms


def _check_keys(entry: Mapping[str, object], keys: Sequence[str], name: str) -> None:
    if set(entry) != set(keys):
        raise InvalidAnswer(f"{name} must have exactly the keys {', '.join(keys)}")


def _is_plain(text: str) -> bool:
    # JSON can contain NUL and halves of surrogate pairs, but the database cannot store them.
    return not any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" for sign in text)
