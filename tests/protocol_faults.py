"""The faults that the protocol server can simulate."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any


class Refusal(Exception):
    """An error answer; `body` is sent as JSON unless it is text."""

    def __init__(self, status: int, body: dict[str, Any] | str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


@dataclass
class Fault:
    """A failure of every `every`-th call that contains the text `containing`; `times` times, or always if it is None.

    Kinds that refuse: rate_limit (retry_after, as_date), unavailable (retry_after), status (status),
    quota, html, poison (message), nan_refused, redirect (to, status), and deep (depth), which does so with a 200.
    Kinds that change the answer: wrong_width, short, empty,
    nan, zero, null, null_row, all_nan, shuffled, unnumbered, half. Kinds of the wire: slow (seconds), reset,
    dribble (seconds from byte to byte), endless.
    """

    kind: str
    times: int | None = 1
    every: int = 1
    containing: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seen: int = 0

    def strikes(self, inputs: Sequence[str]) -> bool:
        """Whether this call fails; counts it."""
        if self.times == 0 or (self.containing and not any(self.containing in text for text in inputs)):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def refusal(self, path: str, hold: Callable[[float], None]) -> Refusal | None:
        """The error this fault answers with, in the shape of the protocol; None if it does not refuse."""
        shape = openai_error if path.startswith("/v1") else ollama_error
        match self.kind:
            case "rate_limit":
                headers = self._retry_after(hold)
                return Refusal(429, shape("Rate limit reached for requests", code="rate_limit_exceeded"), headers)
            case "unavailable":
                return Refusal(503, shape("server busy, please try again", code=None), self._retry_after(hold))
            case "quota":
                message = "You exceeded your current quota, please check your plan and billing details."
                return Refusal(429, shape(message, code="insufficient_quota"))
            case "status":
                status = int(self.options.get("status", 500))
                return Refusal(status, shape("The server had an error while processing your request.", code=None))
            case "html":
                return Refusal(502, "<html><body><h1>502 Bad Gateway</h1></body></html>")
            case "poison":
                return Refusal(400, shape(self.options.get("message", "the input is not acceptable"), code=None))
            case "redirect":
                return Refusal(int(self.options.get("status", 307)), "", {"location": str(self.options["to"])})
            case "deep":
                depth = int(self.options.get("depth", 100_000))
                deep = "[" * depth + "]" * depth
                # Send it in all fields that a client may read.
                names = ("data", "embeddings", "choices", "message")
                body = "{" + ", ".join(f'"{name}": {deep}' for name in names) + "}"
                return Refusal(200, body, {"content-type": "application/json"})
            case "nan_refused":
                return Refusal(500, shape("failed to encode response: json: unsupported value: NaN", code=None))
        return None

    def _retry_after(self, hold: Callable[[float], None]) -> dict[str, str]:
        seconds = self.options.get("retry_after")
        if seconds is None:
            return {}
        if not self.options.get("as_date"):
            hold(seconds)
            return {"retry-after": str(seconds)}
        until = math.ceil(time.time() + seconds)
        hold(until - time.time())
        return {"retry-after": formatdate(until, usegmt=True)}

    def alter(self, vectors: list[Any], inputs: Sequence[str]) -> list[Any]:
        """Change the answer's vectors: those of the fault's texts, or the last one."""
        about = [i for i, text in enumerate(inputs) if self.containing and self.containing in text] or [-1]
        match self.kind:
            case "wrong_width":
                return [row[:-1] for row in vectors]
            case "short":
                return vectors[:-1]
            case "empty":
                return []
            case "all_nan":
                return [row * math.nan for row in vectors]
            case "nan" | "zero":
                for row in about:
                    vectors[row] = vectors[row] * (math.nan if self.kind == "nan" else 0)
            case "null":
                for row in about:
                    vectors[row] = [None, *vectors[row].tolist()[1:]]
            case "null_row":
                for row in about:
                    vectors[row] = None
        return vectors


def openai_error(message: str, *, code: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    """OpenAI's error shape; quota and rate carry their code as the type too."""
    kind = "insufficient_quota" if code == "insufficient_quota" else kind
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def ollama_error(message: str, *, code: str | None = None) -> dict[str, Any]:
    """Ollama's error shape, which has no code."""
    return {"error": message}
