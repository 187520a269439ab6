"""The precisions of an export, and which one is the fastest here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.names import FASTEST
from pyserini_llm_sparse.onnx.runtime.providers import device_number, missing_driver
from pyserini_llm_sparse.system import multiplies_int8

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "int4")


def known_precision(asked: str) -> Precision:
    """Return a precision by its name.

    Raises:
        UsageError: There is none of that name.
    """
    for known in PRECISIONS:
        if known == asked:
            return known
    raise UsageError(f"precision {asked}: unknown; choose {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")


def asked_precision(asked: str, device: str | None, dtype: str | None) -> Precision | None:
    """Return the precision of the export that is to be made of a model; None to compute with torch.

    Args:
        asked: A precision, or ``auto`` for the fastest.
        device: Where the model was asked to run.
        dtype: The number format that torch was asked for.

    Raises:
        UsageError: There is no such precision, or it contradicts the others.
    """
    precision = fastest_precision(device) if asked == FASTEST else known_precision(asked)
    if dtype is not None:
        raise UsageError(
            f"precision {asked} and dtype {dtype}: dtype is for torch, precision for ONNX Runtime; keep one"
        )
    if precision is not None:
        device_number(device or "cpu")
    return precision


def fastest_precision(device: str | None) -> Precision | None:
    """Return the precision that is the fastest with what is installed; None for torch in its own.

    On a CPU it is int8, or float32 where int8 has no instructions. On a GPU torch computes in bfloat16, than which no
    export has been measured to be faster.

    Args:
        device: Where the model was asked to run; None for the best there is.
    """
    on_cpu = device == "cpu" or (device is None and not _is_gpu_there())
    if not (on_cpu and find_spec("onnx") and find_spec("onnxruntime")):
        return None
    return "int8" if multiplies_int8() else "fp32"


def _is_gpu_there() -> bool:
    if missing_driver():  # which is known without the second that it takes to import torch
        return False
    import torch

    return torch.cuda.is_available()
