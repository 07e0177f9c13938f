"""A small HTTP server that speaks OpenAI's and Ollama's embedding protocols, with faults on demand.

    with ProtocolServer() as server:
        server.fail("rate_limit", every=3, times=None, retry_after=2)

or `python -m tests.protocol_server --port 0 --latency-ms 100`, which prints its URL, and at the end
(SIGINT, SIGTERM) the counts that GET /report has in between.
"""

import argparse
import json
import os
import signal
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from zlib import crc32

from tests import protocol_chat
from tests.protocol_faults import Fault, Refusal, ollama_error, openai_error
from tests.protocol_vectors import embed, encode, pooled_json, tokenize

OPENAI_MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
# house-model represents an unknown model.
OLLAMA_MODELS = {"nomic-embed-text": 768, "all-minilm": 384, "house-model": 96}
OLLAMA_CONTEXT = {"nomic-embed-text": 2048, "all-minilm": 256, "house-model": 128}

MAX_INPUTS, MAX_INPUT_TOKENS, MAX_REQUEST_TOKENS = 2048, 8192, 300_000

# A call that was sent before the 429 arrived is not too soon.
IN_FLIGHT_SECONDS = 0.4


@dataclass
class Call:
    """A received request; `too_soon` if it came before the Retry-After had passed."""

    arrived: float
    path: str
    inputs: list[str]
    tokens: int
    body: dict[str, Any]
    status: int = 0
    too_soon: bool = False


class ProtocolServer:
    """Serves on 127.0.0.1 from a thread; `calls` has every embedding request in the order of arrival.

    `latency` is in seconds. With `pool`, answers contain vectors from this number of prepared ones, so that a benchmark
    does not measure their computation.
    """

    def __init__(self, *, api_key: str | None = None, latency: float = 0.0, port: int = 0, pool: int = 0) -> None:
        self.api_key = api_key
        self.latency = latency
        # Each answer waits for this event.
        self.gate: threading.Event | None = None
        self.pool = pool
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        # The terms that the chat models know for a tag.
        self.vocabulary: dict[str, list[str]] = {}
        self._holds: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def wrap(self, context: ssl.SSLContext) -> None:
        """Serve over TLS; call it before the start."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        """The root, which is Ollama's address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{self.url}/v1"

    @property
    def inputs(self) -> int:
        """Texts received, refused calls included."""
        return sum(len(call.inputs) for call in self.calls)

    @property
    def tokens(self) -> int:
        """Tokens of the calls that were answered."""
        return sum(call.tokens for call in self.calls if call.status == 200)

    @property
    def too_soon(self) -> int:
        """Calls that came before the Retry-After of this server had passed."""
        return sum(call.too_soon for call in self.calls)

    def report(self) -> dict[str, int]:
        """Counts of the requests so far."""
        return {
            "calls": len(self.calls),
            "answered": sum(call.status == 200 for call in self.calls),
            "inputs": self.inputs,
            "tokens": self.tokens,
            "too_soon": self.too_soon,
        }

    def fail(
        self, kind: str, *, times: int | None = 1, every: int = 1, containing: str | None = None, **options: Any
    ) -> Fault:
        """Set a fault; see `Fault` for the kinds and their options."""
        fault = Fault(kind, times, every, containing, options)
        self.faults.append(fault)
        return fault

    def record(self, call: Call) -> Fault | None:
        """Note a call and choose its fault."""
        with self._lock:
            call.too_soon = any(sent + IN_FLIGHT_SECONDS < call.arrived < until for sent, until in self._holds)
            self.calls.append(call)
            return next((fault for fault in self.faults if fault.strikes(call.inputs)), None)

    def answered(self, call: Call) -> None:
        """This is called when the whole answer to a call was sent. Drills override it to act at this moment."""

    def hold(self, seconds: float) -> None:
        """From now on, calls within `seconds` are too soon."""
        with self._lock:
            now = time.time()
            self._holds.append((now, now + seconds))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: ProtocolServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not print errors of clients that disconnect, because tests do that."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests into pytest's output."""

    def do_GET(self) -> None:
        answers: dict[str, dict[str, Any]] = {
            "/api/tags": {"models": [{"name": f"{name}:latest", "model": f"{name}:latest"} for name in OLLAMA_MODELS]},
            "/api/version": {"version": "0.15.6"},
            "/report": dict(self.server.owner.report()),
            "/v1/models": {"object": "list", "data": [{"id": name, "object": "model"} for name in OPENAI_MODELS]},
        }
        found = answers.get(self.path)
        self._send(200 if found else 404, json.dumps(found or {"error": "not found"}))

    def do_POST(self) -> None:
        arrived = time.time()
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        given = body.get("input")
        inputs = [given] if isinstance(given, str) else list(given or protocol_chat.read_messages(body))
        call = Call(arrived, self.path, inputs, sum(len(tokenize(text)) for text in inputs), body)
        owner = self.server.owner
        fault = owner.record(call)
        if owner.gate is not None:
            owner.gate.wait(60)
        time.sleep(owner.latency + (fault.options.get("seconds", 1.0) if fault and fault.kind == "slow" else 0))
        if fault and fault.kind == "reset":
            self._reset()
            return
        try:
            # Check the key first, like the real servers; only calls with a valid key get a fault.
            dimensions, texts = self._admit(call)
            if fault and (refusal := fault.refusal(call.path, owner.hold)):
                raise refusal
            call.status = 200
            if call.path in protocol_chat.PATHS:
                self._send(200, protocol_chat.answer(call.path, body, fault, owner.vocabulary))
                return
            content = self._answer(call, texts, dimensions, fault)
            if fault and fault.kind in ("dribble", "endless"):
                self._drag(content.encode(), fault)
                return
            self._send(200, content, half=bool(fault and fault.kind == "half"))
            owner.answered(call)
        except Refusal as refusal:
            call.status = refusal.status
            plain = isinstance(refusal.body, str)
            content = str(refusal.body) if plain else json.dumps(refusal.body)
            self._send(refusal.status, content, refusal.headers, kind="text/html" if plain else "application/json")

    def _admit(self, call: Call) -> tuple[int, list[str]]:
        if call.path == "/v1/embeddings":
            return self._admit_openai(call)
        if call.path == "/api/embed":
            return self._admit_ollama(call)
        if call.path in protocol_chat.PATHS:
            protocol_chat.admit(call.path, call.body)
            return 0, call.inputs
        raise Refusal(404, "404 page not found")

    def _admit_openai(self, call: Call) -> tuple[int, list[str]]:
        key, model = self.server.owner.api_key, str(call.body.get("model"))
        if key is not None and self.headers.get("authorization") != f"Bearer {key}":
            # Some servers repeat the whole header. No part of it may appear in the program's logs.
            message = f"Incorrect API key provided: {self.headers.get('authorization')}."
            raise Refusal(401, openai_error(message, code="invalid_api_key"))
        dimensions = OPENAI_MODELS.get(model) or OLLAMA_MODELS.get(model)
        if dimensions is None:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refusal(404, openai_error(message, code="model_not_found"))
        if not call.inputs or not all(call.inputs):
            raise Refusal(400, openai_error("'$.input' is invalid. Please check the API reference."))
        if len(call.inputs) > MAX_INPUTS:
            raise Refusal(400, openai_error(f"Invalid 'input': array too long, at most {MAX_INPUTS} items."))
        longest = max(len(tokenize(text)) for text in call.inputs)
        if longest > MAX_INPUT_TOKENS:
            # Both messages are from OpenAI; the second is from 2026.
            counted = f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, however you requested "
            counted += f"{longest} tokens ({longest} in your prompt; 0 for the completion). Please reduce your prompt."
            terse = f"Invalid 'input': maximum context length is {MAX_INPUT_TOKENS} tokens."
            raise Refusal(400, openai_error(counted if len(call.inputs) == 1 else terse))
        if call.tokens > MAX_REQUEST_TOKENS:
            message, code = f"Requested {call.tokens} tokens, max {MAX_REQUEST_TOKENS} tokens per request", "max_tokens"
            raise Refusal(400, openai_error(message, kind=f"{code}_per_request", code=f"{code}_per_request"))
        return int(call.body.get("dimensions") or dimensions), call.inputs

    def _admit_ollama(self, call: Call) -> tuple[int, list[str]]:
        model = str(call.body.get("model")).removesuffix(":latest")
        if model not in OLLAMA_MODELS:
            message = f'model "{call.body.get("model")}" not found, try pulling it first'
            raise Refusal(404, ollama_error(message))
        limit = min(OLLAMA_CONTEXT[model], call.body.get("options", {}).get("num_ctx", 4096))
        read = []
        for text in call.inputs:
            tokens = tokenize(text)
            if len(tokens) > limit and not call.body.get("truncate", True):
                raise Refusal(400, ollama_error("the input length exceeds the context length"))
            read.append(" ".join(tokens[:limit]) if len(tokens) > limit else text)
        call.tokens = sum(len(tokenize(text)) for text in read)
        return int(call.body.get("dimensions") or OLLAMA_MODELS[model]), read

    def _answer(self, call: Call, texts: list[str], dimensions: int, fault: Fault | None) -> str:
        encoding = str(call.body.get("encoding_format", "float"))
        if pool := self.server.owner.pool:
            rows = [pooled_json(f"pool {crc32(text.encode()) % pool}", dimensions, encoding) for text in texts]
        else:
            vectors: list[Any] = [embed(text, dimensions) for text in texts]
            vectors = fault.alter(vectors, texts) if fault else vectors
            rows = [json.dumps(encode(row, encoding)) for row in vectors]
        model = json.dumps(call.body["model"])
        if call.path == "/api/embed":
            return f'{{"model": {model}, "embeddings": [{",".join(rows)}], "prompt_eval_count": {call.tokens}}}'
        numbers = [0] * len(rows) if fault and fault.kind == "unnumbered" else range(len(rows))
        items = [
            f'{{"object": "embedding", "index": {i}, "embedding": {row}}}' for i, row in zip(numbers, rows, strict=True)
        ]
        if fault and fault.kind == "shuffled":
            items.reverse()
        usage = f'{{"prompt_tokens": {call.tokens}, "total_tokens": {call.tokens}}}'
        return f'{{"object": "list", "data": [{",".join(items)}], "model": {model}, "usage": {usage}}}'

    def _send(
        self,
        status: int,
        content: str,
        headers: dict[str, str] | None = None,
        *,
        kind: str = "application/json",
        half: bool = False,
    ) -> None:
        octets = content.encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(octets)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(octets[: len(octets) // 2] if half else octets)
        self.close_connection = self.close_connection or half

    def _drag(self, octets: bytes, fault: Fault) -> None:
        """Send an answer that never ends: byte by byte, or blanks as fast as the client reads."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.close_connection = True
        if fault.kind == "endless":
            while True:
                self.wfile.write(b" " * 2**20)
        for place in range(len(octets)):
            self.wfile.write(octets[place : place + 1])
            time.sleep(fault.options.get("seconds", 1.0))

    def _reset(self) -> None:
        # With linger zero, and a close of the descriptor itself, the kernel sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def main() -> None:
    """Serve until interrupted; the first line printed is the URL."""
    parser = argparse.ArgumentParser(description="OpenAI's and Ollama's embedding protocols, for drills and benches.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait before every answer")
    parser.add_argument("--pool", type=int, default=0, help="answer from so many ready-made vectors (fast)")
    parser.add_argument("--rate-limit-every", type=int, default=0, help="answer 429 to every k-th call")
    parser.add_argument("--retry-after", type=float, default=2.0, help="Retry-After of a 429, in seconds")
    parser.add_argument("--poison", action="append", default=[], help="refuse (400) calls with a text that holds this")
    arguments = parser.parse_args()
    server = ProtocolServer(port=arguments.port, latency=arguments.latency_ms / 1000, pool=arguments.pool)
    for text in arguments.poison:
        server.fail("poison", times=None, containing=text)
    if arguments.rate_limit_every:
        server.fail("rate_limit", times=None, every=arguments.rate_limit_every, retry_after=arguments.retry_after)
    # Set the handlers here, because a shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with server:
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(json.dumps(server.report()), flush=True)


if __name__ == "__main__":
    main()
