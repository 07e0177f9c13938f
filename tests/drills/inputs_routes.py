"""Every route, read from the OpenAPI document, and a request that each would answer."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.drills.inputs_rows import EMBEDDED_ID, LEASED_ID, SYNONYMS

Json = Any
Place = tuple[str | int, ...]

# Valid names of existing objects, which the document does not contain.
_KNOWN: Mapping[str, object] = {
    "collection": "music_knowledge",
    "id": EMBEDDED_ID,
    "model": "fake",
    "query": "gain staging",
    "q": "gain staging",
    "synonyms_id": 1,
    "tag_name": "Salsa",
    "task_id": LEASED_ID,
    "table": "music_knowledge",
    "tag_type": "genre",
    "type": "INSERT",
    # The map is drawn without a column for its colours.
    "category": None,
}
# Bodies for operations whose examples in the document do not belong together.
_BODIES: Mapping[tuple[str, str], Mapping[str, Json]] = {
    ("POST", "/api/search/{collection}"): {"query": "gain staging", "match_count": 5, "filter": {"category": ""}},
    ("POST", "/api/synonyms"): {"tag_type": "genre", "tag_id": 2, "synonyms": json.loads(SYNONYMS), "confidence": 1.0},
    ("PUT", "/api/synonyms/{synonyms_id}"): {"synonyms": json.loads(SYNONYMS), "confidence": 0.5, "is_active": True},
    ("POST", "/api/upsert-embeddings"): {"rows": [{"id": EMBEDDED_ID}], "collection": "music_knowledge"},
    ("POST", "/api/webhooks/synonyms"): {
        "type": "INSERT",
        "table": "genre_tags",
        "schema": "public",
        "record": {"id": 1, "name": "Salsa"},
    },
    ("POST", "/v1/embeddings"): {"model": "fake", "input": ["a text"], "encoding_format": "float", "user": "me"},
}


@dataclass
class Operation:
    """A route with its method. `places` maps the name of each parameter to its place (path or query)."""

    method: str
    path: str
    places: dict[str, str]
    given: dict[str, Json]
    body: Json = None
    has_body: bool = False

    def url(self, given: Mapping[str, object]) -> str:
        """The path with these parameters in it, each escaped as a client would."""
        path = self.path
        query = []
        for name, where in self.places.items():
            if given[name] is None:
                continue
            value = quote(str(given[name]).encode("utf-8", "surrogatepass"), safe="")
            if where == "path":
                path = path.replace("{" + name + "}", value)
            else:
                query.append(f"{name}={value}")
        return path + ("?" + "&".join(query) if query else "")

    def fields(self) -> Iterator[Place]:
        """The paths of all values in the body, including containers."""
        yield from _places(self.body)

    def with_field(self, place: Place, value: Json) -> Json:
        """The body with another value at that place."""
        if not place:
            return value
        body = copy.deepcopy(self.body)
        inner = body
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
        return body


def operations(document: Mapping[str, Json]) -> list[Operation]:
    """All operations of the document."""
    found = []
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            places, given = {}, {}
            for parameter in described.get("parameters", ()):
                places[parameter["name"]] = parameter["in"]
                given[parameter["name"]] = _example(document, parameter["schema"], parameter["name"])
            operation = Operation(method.upper(), path, places, given)
            if "requestBody" in described:
                (content,) = described["requestBody"]["content"].values()
                operation.body = _BODIES.get((operation.method, path)) or _example(document, content["schema"], "")
                operation.has_body = True
            found.append(operation)
    return found


def _places(value: Json, place: Place = ()) -> Iterator[Place]:
    yield place
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield from _places(inner, (*place, step))


def _example(document: Mapping[str, Json], schema: Mapping[str, Json], name: str) -> Json:
    """A value that the schema allows; the first of its alternatives."""
    if "$ref" in schema:
        target: Json = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return _example(document, target, name)
    if "const" in schema:
        return schema["const"]
    if name in _KNOWN and schema.get("type") != "object":
        return _KNOWN[name]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _example(document, schema[key][0], name)
    kind = schema.get("type")
    if kind == "object":
        return {key: _example(document, inner, key) for key, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(document, schema.get("items", {}), name)]
    if "default" in schema:
        return schema["default"]
    if kind in ("integer", "number"):
        return int(schema.get("minimum", 1))
    return {"boolean": False, "string": "text"}.get(str(kind))


def as_json(value: Json) -> bytes:
    """Encode as a hostile client does, with NaN, infinities and lone surrogates."""
    return json.dumps(value, allow_nan=True).encode()
