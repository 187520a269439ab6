"""Lines of plain and compressed files as bytes, in bounded memory; damaged compression is an error, never an end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from pyserini_llm_sparse.errors import DataError, ResourceError, at

MAXIMUM_LINE = 64 * 2**20
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
_NOT_LINES = {
    b"\x1f\x8b": "gzip (.gz)", b"\x28\xb5\x2f\xfd": "zstd (.zst)", b"BZh": "bzip2 (.bz2)", b"\xfd7zXZ\x00": "xz (.xz)",
    b"PK\x03\x04": "ZIP (.zip)", b"7z\xbc\xaf": "7z (.7z)", b"PAR1": "Parquet (.parquet)", b"ARROW1": "Arrow (.arrow)",
    b"%PDF": "PDF (.pdf)", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x80\x04": "a pickle (.pkl)",
}  # fmt: skip
_DOCUMENTS = (".docx", ".xlsx", ".pptx", ".odt", ".ods", ".epub")  # which are ZIP archives, too
_CHUNK = 2**18


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield ``(line number from 1, line without its end)``; None for a line longer than `MAXIMUM_LINE` bytes.

    A UTF-8 byte order mark at the start of the file is left out.

    Raises:
        ResourceError: The file cannot be opened or read.
        DataError: It is compressed and damaged or cut off.
    """
    number = 0
    try:
        with open_bytes(path) as stream:
            while line := stream.readline(MAXIMUM_LINE + 1):
                number += 1
                if number == 1:
                    _require_lines(path, line)
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if len(line) > MAXIMUM_LINE and not line.endswith(b"\n"):
                    _skip_to_line_end(stream)
                    yield number, None
                else:
                    yield number, line.rstrip(b"\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{at(path, number)}: damaged or cut-off {path.suffix} file: {error}; copy or download it again"
        ) from error
    except OSError as error:
        if error.errno is None:  # bz2's way to say that its data is damaged
            raise DataError(
                f"{at(path, number)}: damaged or cut-off {path.suffix} file: {error}; copy or download it again"
            ) from error
        raise ResourceError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading its decompressed bytes, by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if suffix == ".bz2":
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if suffix == ".xz":
        return cast("IO[bytes]", lzma.open(path, "rb"))
    if suffix == ".zst":
        return io.BufferedReader(_ZstdStream(path), _CHUNK)
    return path.open("rb")


def bare_suffix(path: Path) -> str:
    """Return the suffix of a file's format in lower case: ``.jsonl`` for ``corpus.jsonl.gz``."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return bare.suffix.lower()


def _require_lines(path: Path, start: bytes) -> None:
    """Refuse a file that is none of lines of text, by how it begins.

    Raises:
        DataError: It is an archive, compressed under another suffix, or in another encoding.
    """
    kind = next((kind for mark, kind in _NOT_LINES.items() if start.startswith(mark)), None)
    if start[257:262] == b"ustar":
        kind = "a tar archive (.tar)"
    if start.startswith(b"PK\x03\x04") and path.suffix.lower() in _DOCUMENTS:
        kind = f"a document ({path.suffix.lower()})"
    if kind:
        raise DataError(
            f"{path}: not lines of text: its content is {kind}; unpack or convert it, or let its name end in the "
            f"suffix that says so ({', '.join(COMPRESSIONS)} are read)"
        )


def _skip_to_line_end(stream: IO[bytes]) -> None:
    while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
        pass


class _ZstdStream(io.RawIOBase):
    """The decompressed bytes of a zstd file; unlike the library's own reader it notices a cut-off frame."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._library = zstandard
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._decompress_more():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decompress_more(self) -> bool:
        """Decompress the next piece. Returns False at the end of the file."""
        compressed = b""
        if self._frame is not None and self._frame.eof:
            compressed, self._frame = self._frame.unused_data, None
        if not compressed:
            compressed = self._file.read(_CHUNK)
        if not compressed:
            if self._frame is not None:
                raise EOFError("it ends inside a frame")
            return False
        if self._frame is None:
            self._frame = self._library.ZstdDecompressor().decompressobj()
        try:
            self._ready = self._frame.decompress(compressed)
        except self._library.ZstdError as error:
            raise EOFError(str(error)) from error
        return True
