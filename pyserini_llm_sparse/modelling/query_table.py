"""The table of term weights that inference-free queries take the place of a model with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError

QUERY_TERM_WEIGHTS_FILE = "query_term_weights.safetensors"
QUERY_TERM_WEIGHTS_NAME = "weights"


def load_query_term_weights(folder: Path, vocabulary_size: int) -> NDArray[np.float32]:
    """Read the table: float32 ``[vocabulary]``.

    Raises:
        ResourceError: There is none.
        DataError: It cannot be read, or does not fit the vocabulary.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / QUERY_TERM_WEIGHTS_FILE
    if not path.is_file():
        raise ResourceError(f"{path}: not there, but the spec says that queries are inference-free; restore the file")
    try:
        weights = load_file(path)[QUERY_TERM_WEIGHTS_NAME]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no tensor {QUERY_TERM_WEIGHTS_NAME!r} to be read: {error}; restore it") from error
    if weights.shape != (vocabulary_size,) or weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise DataError(
            f"{path}: {weights.dtype} {list(weights.shape)}: not {vocabulary_size} finite float32 weights; restore it"
        )
    return weights


def save_query_term_weights(folder: Path, weights: Any, vocabulary_size: int) -> None:
    """Write the table, ``[vocabulary]`` numbers of any kind.

    Raises:
        UsageError: They are not one finite number for each id.
    """
    from safetensors.numpy import save_file

    if hasattr(weights, "detach"):
        weights = weights.detach().float().cpu().numpy()
    table = np.ascontiguousarray(weights, dtype=np.float32)
    if table.shape != (vocabulary_size,) or not np.isfinite(table).all():
        raise UsageError(f"query term weights: {list(table.shape)}: not {vocabulary_size} finite numbers")
    save_file({QUERY_TERM_WEIGHTS_NAME: table}, folder / QUERY_TERM_WEIGHTS_FILE)
