"""The device and the floating-point type that a model runs on."""

from __future__ import annotations

import torch

from pyserini_llm_sparse.errors import ResourceError, UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device to use: the one that is named, else a GPU where there is one, else the CPU.

    Raises:
        UsageError: The name is none that torch knows.
        ResourceError: The device is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device}: unknown to torch; use cpu, cuda, cuda:0 or mps") from error
    missing = (place.type == "cuda" and not torch.cuda.is_available()) or (
        place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count()
    )
    if missing or (place.type == "mps" and not torch.backends.mps.is_available()):
        raise ResourceError(f"device {device}: not available: torch {torch.__version__} sees no such device; use cpu")
    return place


def resolve_dtype(dtype: str | torch.dtype | None, device: str | torch.device | None = None) -> str:
    """Return the name of the floating-point type to use.

    By default float32 on a CPU, elsewhere bfloat16 where the device has it, else float16.

    Raises:
        UsageError: The type is another one.
    """
    if dtype is None or dtype == "auto":
        place = resolve_device(device)
        if place.type == "cpu":
            return "float32"
        return "bfloat16" if place.type == "cuda" and torch.cuda.is_bf16_supported() else "float16"
    name = str(dtype).removeprefix("torch.")
    name = SHORT_DTYPES.get(name, name)
    if name not in DTYPES:
        raise UsageError(f"dtype {dtype}: cannot be used; choose float32, bfloat16 or float16")
    return name
