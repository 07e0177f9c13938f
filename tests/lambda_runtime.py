"""A small Lambda Runtime API, and a function that runs under the real awslambdaric client with it."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
VERSION = "/2018-06-01/runtime"


@dataclass(frozen=True)
class Invocation:
    id: str
    event: Any
    deadline: float


@dataclass(frozen=True)
class Outcome:
    """The function's answer, or the error with which it ended."""

    answer: Any = None
    error: Any = None


class RuntimeApi:
    """Sends events to the client and receives its answers. A context manager."""

    def __init__(self) -> None:
        self.invocations: queue.Queue[Invocation] = queue.Queue()
        self.outcomes: queue.Queue[tuple[str, Outcome]] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.api = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == f"{VERSION}/invocation/next", self.path
        while True:
            try:
                invocation = self._api.invocations.get(timeout=0.1)
                break
            except queue.Empty:
                continue
        body = json.dumps(invocation.event).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Lambda-Runtime-Aws-Request-Id", invocation.id)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(invocation.deadline * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-central-1:1:function:test")
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-2-3")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        # awslambdaric sends an answer with its length, or in chunks.
        body = self._read_body()
        parts = self.path.removeprefix(VERSION).strip("/").split("/")
        if parts[-1] == "response":
            self._api.outcomes.put((parts[1], Outcome(answer=json.loads(body))))
        else:
            self._api.outcomes.put((parts[1] if len(parts) == 3 else "init", Outcome(error=json.loads(body))))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    @property
    def _api(self) -> RuntimeApi:
        return self.server.api  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        """Do not log requests into pytest's output."""


Start = Callable[..., "LambdaFunction"]


class LambdaFunction:
    """A handler in a separate process, which the first event starts (a cold call). A context manager."""

    def __init__(self, handler: str, environment: dict[str, str]) -> None:
        self._handler = handler
        self._environment = environment
        self._api = RuntimeApi()
        self.output = ""

    def __enter__(self) -> Self:
        self._api.__enter__()
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "awslambdaric", self._handler],
            cwd=ROOT,
            env={
                **inherited,
                "AWS_LAMBDA_RUNTIME_API": self._api.address,
                "AWS_LAMBDA_FUNCTION_NAME": "test",
                "AWS_LAMBDA_FUNCTION_VERSION": "1",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
                "AWS_REGION": "eu-central-1",
                "AWS_DEFAULT_REGION": "eu-central-1",
                "LAMBDA_TASK_ROOT": str(ROOT),
                "PYTHONPATH": str(ROOT),
                **self._environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line

    def invoke(self, event: Any, *, seconds: float = 60.0) -> Outcome:
        """Send an event and wait for its outcome; `seconds` is the remaining time that the function sees."""
        invocation = Invocation(str(uuid.uuid4()), event, time.time() + seconds)
        self._api.invocations.put(invocation)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                of, outcome = self._api.outcomes.get(timeout=0.2)
            except queue.Empty:
                if self._process.poll() is not None:
                    raise AssertionError(f"the function ended:\n{self.output}") from None
                continue
            assert of in (invocation.id, "init"), "an answer to another event"
            return outcome
        raise AssertionError(f"the function did not answer:\n{self.output}")

    def printed(self, text: str, times: int = 1) -> bool:
        """Whether the function printed a text this number of times. Waits, because output arrives a moment after an answer."""
        deadline = time.monotonic() + 5
        while self.output.count(text) < times and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.output.count(text) == times

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._api.__exit__(None, None, None)
