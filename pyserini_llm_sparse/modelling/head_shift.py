"""The vector of a calibrated head on disk: `encoding_spec.json` says with ``calibrated_head`` whether it is used.

A softmax does not change when all logits of a position move by the same amount. With a vector v the logits
``hidden @ (weight - v).T`` are therefore the same language model as ``hidden @ weight.T``. Where v predicts the k-th
largest logit of a position, all but about k of them are negative, though, and ``log1p(relu(.))`` of them is sparse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError, ResourceError

HEAD_SHIFT_FILE = "head_shift.safetensors"
HEAD_SHIFT_NAME = "shift"


def has_head_shift(folder: Path) -> bool:
    """Tell whether a model's directory holds such a vector."""
    return (folder / HEAD_SHIFT_FILE).is_file()


def load_head_shift(folder: Path) -> NDArray[np.float32]:
    """Read the vector: float32 ``[hidden]``.

    Raises:
        ResourceError: There is none.
        DataError: It cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / HEAD_SHIFT_FILE
    if not path.is_file():
        raise ResourceError(
            f"{path}: not there, but the spec says calibrated_head: true; restore the file, or make one with "
            "`train calibrate`"
        )
    try:
        shift = load_file(path)[HEAD_SHIFT_NAME]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no tensor {HEAD_SHIFT_NAME!r} to be read: {error}; restore it") from error
    if shift.ndim != 1 or shift.dtype != np.float32 or not np.isfinite(shift).all():
        raise DataError(f"{path}: {shift.dtype} {list(shift.shape)}: not one row of finite float32; restore it")
    return shift


def save_head_shift(folder: Path, shift: Any) -> None:
    """Write the vector, a tensor or array ``[hidden]``."""
    from safetensors.numpy import save_file

    if hasattr(shift, "detach"):
        shift = shift.detach().float().cpu().numpy()
    save_file({HEAD_SHIFT_NAME: np.ascontiguousarray(shift, dtype=np.float32)}, folder / HEAD_SHIFT_FILE)
