"""Stores built graphs on disk. To build one takes a second or two and 100 MB of memory; to load it takes less."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The first bytes of a digest are enough: a collision would need two models of one name.
DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class GraphCache:
    """Files `<name>-<digest of the ingredients>-<bytes>.onnx`. The size in the name shows whether a file is truncated.

    A file is written under another name and then renamed, so that several processes may build at once. If the folder is
    not writable, graphs are built every time.
    """

    directory: Path

    def get(self, name: str, ingredients: str, build: Callable[[], bytes]) -> Path | bytes:
        """The file of a graph, which is built if it is missing. If the file cannot be written, returns the graph's bytes."""
        digest = hashlib.sha256(ingredients.encode()).hexdigest()[:DIGEST_LENGTH]
        for path in self.directory.glob(f"{name}-{digest}-*.onnx"):
            if path.stem.endswith(f"-{path.stat().st_size}"):
                return path
        graph = build()
        try:
            return self._store(name, digest, graph)
        except OSError:
            return graph

    def forget(self, path: Path) -> None:
        """Delete a file that turned out to be broken."""
        with suppress(OSError):
            path.unlink()

    def _store(self, name: str, digest: str, graph: bytes) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=self.directory, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(graph)
            # Let all users read the file, unlike a temporary file: in a container image another user may run the program.
            os.chmod(unfinished, 0o644)
            path = self.directory / f"{name}-{digest}-{len(graph)}.onnx"
            os.replace(unfinished, path)
        except OSError:
            self.forget(Path(unfinished))
            raise
        for other in self.directory.glob(f"{name}-*.onnx"):
            # Remove files of older builds and truncated files. A process that has the file open can still read it.
            if other != path and other.stem.removeprefix(f"{name}-").count("-") == 1:
                self.forget(other)
        return path


def fingerprint(path: Path) -> str:
    """Path, size and modification time of a file: a text that changes when the file changes."""
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"
