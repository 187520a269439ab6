"""Names of what files hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLES = 256
_SAMPLED_BYTES = 4096
_READ_WHOLE = 2**24  # bytes


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
