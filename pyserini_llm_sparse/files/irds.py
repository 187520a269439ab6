"""Datasets of ir_datasets: their entries, the texts of these, and its errors in one line each."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pyserini_llm_sparse.errors import FULL_DISK, DataError, LlmSparseError, PrerequisiteError, ResourceError, one_line
from pyserini_llm_sparse.files.fields import TITLE_AND_TEXT, joined_fields
from pyserini_llm_sparse.files.records import RecordProblem

IRDS = "irds:"


_NAMES = {"docs": "documents", "queries": "queries", "qrels": "judgements"}
# What libraries raise of files that are cut off, or are not what they should be
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile,
            struct.error, ValueError, LookupError)  # fmt: skip
_NETWORK = ("requests.", "urllib3.", "urllib.error.", "http.client.", "socket.", "ssl.")


def irds_entries(name: str, kind: Literal["docs", "queries", "qrels"]) -> Iterator[Any]:
    """Yield the documents, the queries or the judgements of ``irds:<dataset id>``, which may be downloaded first.

    Raises:
        PrerequisiteError: ir_datasets, or a package that it needs for the dataset, is not installed.
        ResourceError: There is no such dataset, it has none of these, or they cannot be had without further steps.
        DataError: A file of the dataset is damaged.
    """
    dataset = _load(name)
    with _one_line(name):
        if not getattr(dataset, f"has_{kind}")():
            raise ResourceError(
                f"{name}: has no {_NAMES[kind]}: the dataset holds other things; name a part with {_NAMES[kind]}"
            )
        yield from getattr(dataset, f"{kind}_iter")()


def count_irds(name: str) -> int | None:
    """Return the number of documents of a dataset, None where it is not known; raises as `irds_entries`."""
    dataset = _load(name)
    with _one_line(name):
        count = dataset.docs_count()
    return None if count is None else int(count)


def _load(name: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        if error.name not in (None, "ir_datasets"):
            raise _without_package(name, error) from error
        raise PrerequisiteError(
            f"{name}: cannot be read: the package ir_datasets is not installed; pip install 'pyserini-llm-sparse[eval]'"
        ) from error
    with _one_line(name):
        try:
            return ir_datasets.load(name.removeprefix(IRDS))
        except KeyError as error:
            raise ResourceError(f"{name}: unknown dataset: not a name of ir_datasets; see ir-datasets.com") from error


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn what ir_datasets raises into an error of ours that names the dataset, the cause and a remedy."""
    try:
        yield
    except (LlmSparseError, MemoryError):
        raise
    except Exception as error:
        raise _explained(name, _cause(error)) from error


def _cause(error: Exception) -> Exception:
    """Return the last error of those that ir_datasets gathers while it tries one source of a file after the other."""
    last = (
        error.args[-1][-1][-1] if len(error.args) == 2 and isinstance(error.args[1], list) and error.args[1] else None
    )
    return last if isinstance(last, Exception) else error


def _explained(name: str, error: Exception) -> LlmSparseError:
    said, page = one_line(error), f"https://ir-datasets.com/{name.removeprefix(IRDS).partition('/')[0]}.html"
    home = os.environ.get("IR_DATASETS_HOME", "~/.ir_datasets")
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if isinstance(error, ImportError):
        return _without_package(name, error)
    if any(kind.startswith(_NETWORK) for kind in kinds) or isinstance(error, ConnectionError | TimeoutError):
        return ResourceError(
            f"{name}: cannot be downloaded: {said}; check the network and what {page} says of access, or copy {home} "
            "from another machine"
        )
    if isinstance(error, EOFError) and "reading a line" in said:  # what input() raises where nobody can answer
        return ResourceError(f"{name}: asks for a name and a password; store them as {page} and ir_datasets say")
    what = type(error).__name__
    if what in ("HashVerificationError", "UnpicklingError") or isinstance(error, _DAMAGED):
        return DataError(
            f"{name}: a file of it is damaged or cut off: {what}: {said}; remove the dataset's folder in {home} and "
            "give the command again"
        )
    if isinstance(error, FileNotFoundError) or "does not exist" in said:
        return ResourceError(
            f"{name}: a file of it must be put there by hand, for it needs a licence or a download of its own: {said}; "
            f"see {page}"
        )
    if isinstance(error, OSError):
        remedy = "free some space" if error.errno in FULL_DISK else f"check {home}"
        return ResourceError(f"{name}: cannot be read or stored: {said}; {remedy}")
    return ResourceError(f"{name}: ir_datasets cannot give it: {said}; see {page}")


def _without_package(name: str, error: ImportError) -> PrerequisiteError:
    return PrerequisiteError(f"{name}: a package that ir_datasets needs is missing: {one_line(error)}; install it")


def entry_text(entry: Any, fields: Sequence[str] | None, identifier: str) -> str:
    """Return the text of a document or a query: the fields that are named, else what its type takes for its text.

    Where that is title and text of a document, they are joined as those of a JSON record. A type that does not say what
    its text is, is read as a JSON record would be.

    Raises:
        RecordProblem: It has no such text.
    """
    record = {name: value for name, value in entry._asdict().items() if name not in ("doc_id", "query_id")}
    if fields or not hasattr(entry, "default_text"):
        return joined_fields(record, fields, identifier)
    missing = {name: "" for name, value in record.items() if value is None}
    text = (entry._replace(**missing) if missing else entry).default_text()
    if not isinstance(text, str):
        raise RecordProblem(
            "text is not text", f"it is a {type(text).__name__}", "name its fields with --fields", identifier
        )
    parts = [record.get(name) or "" for name in TITLE_AND_TEXT]
    joined = " ".join(part.strip() for part in parts if isinstance(part, str) and part.strip())
    return joined if hasattr(entry, "doc_id") and joined.split() == text.split() else text.strip()
