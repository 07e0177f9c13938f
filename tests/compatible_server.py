"""A server that imitates other programs with OpenAI's protocol. Each of its deviations exists in a real server."""

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.protocol_vectors import embed, tokenize

WIDTH = 24

# Deviations of the field `index`: it is left out, left out if it is 0, 0 for every vector, or wrong.
INDEX = {
    "no index": lambda place: {},
    "no index 0": lambda place: {"index": place} if place else {},
    "index 0": lambda place: {"index": 0},
    "index twice": lambda place: {"index": max(place, 1)},
}
# Refusals whose cause is not a text: status and body.
REFUSALS: dict[str, tuple[int, Any]] = {
    "base64 as text": (400, {"error": {"message": "encoding_format base64 is not supported, use float", "code": 400}}),
    "base64 as detail": (422, {"detail": [{"loc": ["body", "encoding_format"], "msg": "Input should be 'float'"}]}),
    "base64 as string": (400, {"error": "base64 encoding is not currently supported"}),
}


@dataclass
class CompatibleServer:
    """Answers POST /v1/embeddings with its deviations; `billed` counts the tokens of all texts that it embedded."""

    habits: set[str] = field(default_factory=set)
    # Status and body of every answer, if this is set.
    refusal: tuple[int, Any] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    billed: int = 0

    def __enter__(self) -> "CompatibleServer":
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def inputs(self) -> list[str]:
        """Every text that was sent."""
        return [text for body in self.bodies for text in body["input"]]

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The answer to a request."""
        self.bodies.append(body)
        if self.refusal is not None:
            return self.refusal
        encoding = body.get("encoding_format", "float")
        for habit, refusal in REFUSALS.items():
            if habit in self.habits and encoding == "base64":
                return refusal
        tokens = sum(len(tokenize(text)) for text in body["input"])
        self.billed += tokens
        number = next((INDEX[habit] for habit in self.habits & set(INDEX)), lambda place: {"index": place})
        data = [
            {**number(place), "embedding": self._vector(text, encoding)} for place, text in enumerate(body["input"])
        ]
        if "reversed" in self.habits:
            data.reverse()
        usage = {} if "no usage" in self.habits else {"usage": {"prompt_tokens": tokens}}
        if "usage 0" in self.habits:
            usage = {"usage": {"prompt_tokens": 0, "total_tokens": 0}}
        return 200, {"data": data, **usage}

    def _vector(self, text: str, encoding: str) -> Any:
        row = embed(text, WIDTH)
        if "integers" in self.habits:
            return np.round(row * 100).astype(int).tolist()
        if "wider" in self.habits:
            row = embed(text, 2 * WIDTH)
        if encoding == "base64" and "digits always" not in self.habits:
            kind = "<f8" if "float64" in self.habits else "<f4"
            return base64.b64encode(row.astype(kind).tobytes()).decode()
        return row.astype(float).tolist()


class _Handler(BaseHTTPRequestHandler):
    owner: CompatibleServer

    def do_POST(self) -> None:
        status, answer = self.owner.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        octets = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, *_: object) -> None:
        """Print nothing, so that requests do not appear in the output of the tests."""
