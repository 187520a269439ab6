"""Names of what files hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SAMPLES = 256
_SAMPLED_BYTES = 4096
_READ_WHOLE = 2**24  # bytes


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class KnownDigests:
    """SHA-256 of files, each of which is read once as long as its size and its time of change are the same."""

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        """Begin with what `content` returned, None for nothing."""
        self._known = dict(known or {})
        self._asked: dict[str, list[Any]] = {}

    def __call__(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes."""
        name, about = str(path.resolve()), path.stat()
        state = [about.st_size, about.st_mtime_ns]
        before = self._asked.get(name) or self._known.get(name)
        digest = before[2] if before is not None and list(before[:2]) == state else file_sha256(path)
        self._asked[name] = [*state, digest]
        return str(digest)

    def content(self) -> dict[str, list[Any]]:
        """Return size, time of change (ns) and digest of each file that was asked for, by its path."""
        return dict(self._asked)


def sampled_bytes(path: Path) -> bytes:
    """Return the size of a file and parts of it at even distances: reading all of many gigabytes takes too long."""
    size = path.stat().st_size
    sampled = [str(size).encode()]
    with path.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(max(0, size - _SAMPLED_BYTES) * number // (_SAMPLES - 1))
            sampled.append(stream.read(_SAMPLED_BYTES))
    return b"".join(sampled)


def quick_digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a large one, of its size and parts of it, since it is asked for often."""
    if path.stat().st_size <= _READ_WHOLE:
        return file_sha256(path)
    return hashlib.sha256(sampled_bytes(path)).hexdigest()
