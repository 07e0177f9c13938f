"""Built graphs on disk: building one takes a second or two and 100 MB of memory, loading it a fraction."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# The first bytes of a digest are enough: a collision would need two models of one name.
DIGEST_LENGTH = 16


class GraphCache:
    """Files `<name>-<digest of what it was made of>-<bytes>.onnx`: a file cut short is never taken for whole.

    Written under another name and renamed, so builders of several processes do not disturb each other.
    Where nothing can be written, graphs are built every time.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, name: str, ingredients: str, build: Callable[[], bytes]) -> Path | bytes:
        """The file of a graph, built if need be; its bytes where they cannot be stored."""
        digest = hashlib.sha256(ingredients.encode()).hexdigest()[:DIGEST_LENGTH]
        for path in self._directory.glob(f"{name}-{digest}-*.onnx"):
            if path.stem.endswith(f"-{path.stat().st_size}"):
                return path
        graph = build()
        try:
            return self._store(name, digest, graph)
        except OSError:
            return graph

    def forget(self, path: Path) -> None:
        """Drop a file that turned out to be broken."""
        with suppress(OSError):
            path.unlink()

    def _store(self, name: str, digest: str, graph: bytes) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=self._directory, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(graph)
            # Unlike a temporary file, a graph may be read by whoever runs the program: a container image, say.
            os.chmod(unfinished, 0o644)
            path = self._directory / f"{name}-{digest}-{len(graph)}.onnx"
            os.replace(unfinished, path)
        except OSError:
            self.forget(Path(unfinished))
            raise
        for other in self._directory.glob(f"{name}-*.onnx"):
            # Of an older build, or cut short. A process that has it open keeps it.
            if other != path and other.stem.removeprefix(f"{name}-").count("-") == 1:
                self.forget(other)
        return path


def fingerprint(path: Path) -> str:
    """What changes when a file does, without reading it."""
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"
