"""The encoding spec that an index carries: in its directory, where it travels with the index."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.modelling.names import EMBEDDED, KEYWORD, SPEC_FILE
from pyserini_llm_sparse.modelling.spec import ALLOW_MISMATCH, EncodingSpec, maker

_logger = logging.getLogger(__name__)


def read_index_spec(index: str | Path) -> EncodingSpec | None:
    """Return the spec that an index carries, None if it carries none (or is no local directory)."""
    path = Path(index) / SPEC_FILE
    return EncodingSpec.load(path) if path.is_file() else None


def write_index_spec(index: str | Path, spec: EncodingSpec, made_by: str = "") -> Path:
    """Put the spec into the index directory: Lucene leaves files alone that are not its own."""
    return spec.save(Path(index) / SPEC_FILE, made_by)


def require_index_spec(
    index: str | Path, spec: EncodingSpec, encoder: str, allowed: Collection[str] = ()
) -> EncodingSpec | None:
    """Refuse to search an index with the queries of an encoder under another spec.

    Fields that only concern documents may differ, since the documents are encoded already; so may fields that the
    caller or the variable `ALLOW_MISMATCH` names.

    Args:
        index: The index directory.
        spec: The encoder's spec.
        encoder: The encoder's name, for the message.
        allowed: Fields that were set on purpose.

    Returns:
        The index's spec; None, after a warning, if it carries none.

    Raises:
        SpecMismatchError: Naming each field with both values.
    """
    carried = read_index_spec(index)
    if carried is None:
        _logger.warning("%s: carries no encoding spec, so whether %s made it cannot be checked", index, encoder)
        return None
    by_variable = [field.strip() for field in os.environ.get(ALLOW_MISMATCH, "").split(",")]
    of_documents = [field for field in EncodingSpec.model_fields if field.startswith("document_")]
    made_by = maker(Path(index) / SPEC_FILE) or (KEYWORD if _is_embedded(carried) else "")
    spec.require_equal(
        carried,
        f"encoder {encoder}",
        f"index {index}" + (f", which {made_by} made" if made_by else ""),
        allowed={*allowed, *by_variable, *of_documents},
        makers=(encoder, made_by),
    )
    return carried


def _is_embedded(spec: EncodingSpec) -> bool:
    """Tell whether the model of the package is the one that a spec is about."""
    return spec.model_fingerprint == EncodingSpec.load(EMBEDDED).model_fingerprint


def set_index_spec_aside(index: str | Path) -> None:
    """Take the spec from an index that is about to be written anew: killed at any point, it has no wrong one.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    path = Path(index) / SPEC_FILE
    with disk_errors(path):
        if path.is_file():
            path.replace(_aside(path))


def settle_index_spec(index: str | Path, written: bool, spec: EncodingSpec | None, made_by: str = "") -> None:
    """Leave an index with its spec after `set_index_spec_aside`.

    Args:
        index: The index directory.
        written: Whether it was written anew; if not, it gets back the spec that it had, which takes no space.
        spec: The new one, None if the new content has none.
        made_by: The name of its model, as far as that is known.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written to.
    """
    path = Path(index) / SPEC_FILE
    with disk_errors(path):
        if not written:
            if _aside(path).is_file():
                _aside(path).replace(path)
            return
        _aside(path).unlink(missing_ok=True)
    if spec is not None:
        write_index_spec(index, spec, made_by)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.former")


def index_state(index: str | Path) -> frozenset[tuple[str, int]]:
    """Return what changes whenever something is written to an index: its commit files and their times."""
    return frozenset((path.name, path.stat().st_mtime_ns) for path in Path(index).glob("segments_*"))
