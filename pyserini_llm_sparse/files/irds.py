"""Datasets of ir_datasets: their names, and the texts of their entries, whose types say which fields are the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyserini_llm_sparse.errors import PrerequisiteError, ResourceError
from pyserini_llm_sparse.files.fields import TITLE_AND_TEXT, joined_fields
from pyserini_llm_sparse.files.records import RecordProblem

IRDS = "irds:"


def load_irds(name: str) -> Any:
    """Return the ir_datasets dataset of ``irds:<dataset id>``.

    Raises:
        PrerequisiteError: ir_datasets is not installed.
        ResourceError: There is no dataset of this name.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise PrerequisiteError(
            f"{name}: cannot be read: the package ir_datasets is not installed; pip install 'pyserini-llm-sparse[eval]'"
        ) from error
    try:
        return ir_datasets.load(name.removeprefix(IRDS))
    except KeyError as error:
        raise ResourceError(f"{name}: unknown dataset: not a name of ir_datasets; see ir-datasets.com") from error


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
