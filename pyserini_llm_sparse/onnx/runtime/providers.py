"""ONNX Runtime's execution providers: which one computes an export, and why CUDA cannot where it was asked for."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

from pyserini_llm_sparse.errors import PrerequisiteError, UsageError, one_line

MODULE = "onnxruntime"
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
CUDA_PRECISIONS = ("fp16", "bf16")  # attention in float32 and products in int8 have no kernels there
CUDA_PACKAGE = "onnxruntime-gpu[cuda,cudnn]"
NO_DRIVER = "no NVIDIA driver"

_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")
_SILENT, _WARNINGS = 4, 2  # severities of the library's log; the second is its own default
# y = x + x, in ONNX: the smallest session that needs the provider.
_ONE_NODE = (
    b'\x08\x08:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01tZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


class Problem(NamedTuple):
    """Why CUDA cannot compute, and what to do."""

    what: str
    remedy: str


def device_number(device: str) -> int | None:
    """Return the number of a CUDA device, None for the CPU.

    Raises:
        UsageError: It is another device, or none.

    >>> device_number("cuda:1"), device_number("cuda"), device_number("cpu")
    (1, 0, None)
    """
    if (found := _DEVICE.fullmatch(str(device))) is None:
        raise UsageError(f"device {device}: ONNX exports run on cpu, cuda or cuda:NUMBER; name one of them")
    return None if found[0] == "cpu" else int(found[1] or 0)


def export_device(device: str | None, precision: str) -> str:
    """Return where an export runs: where it was asked to, else on the CPU, or on a GPU that works if it is made for it.

    Args:
        device: What was asked for; None for nothing.
        precision: The export's.
    """
    if device is not None:
        return device
    return "cuda" if precision in CUDA_PRECISIONS and cuda_problem() is None else "cpu"


def provider_options(number: int | None) -> list[Any]:
    """Return what a session is opened with; the CPU computes what the GPU has no kernels for, such as sizes.

    Args:
        number: Of the CUDA device; None for the CPU alone.
    """
    if number is None:
        return [CPU_PROVIDER]
    options = {
        "device_id": number,
        # Doubling, which is the default, can ask for the rest of the GPU's memory at once.
        "arena_extend_strategy": "kSameAsRequested",
        # On by default, it would round the factors of float32 products to 10 bits.
        "use_tf32": 0,
    }
    return [(CUDA_PROVIDER, options), CPU_PROVIDER]


def require_cuda(number: int) -> None:
    """Refuse to go on without a CUDA device that was asked for: silently the CPU would do its work.

    Raises:
        PrerequisiteError: ONNX Runtime cannot use it.
    """
    if problem := cuda_problem(number):
        raise PrerequisiteError(f"device cuda:{number}: {problem.what}; {problem.remedy}, or use device cpu")


@cache
def cuda_problem(number: int = 0) -> Problem | None:
    """Find out, by opening a session, why ONNX Runtime cannot compute on a CUDA device; None if it can."""
    providers = available_providers()
    if CUDA_PROVIDER not in providers:
        return judge_cuda(installed_runtimes(), providers, "")
    import onnxruntime

    if not (said := _failure(onnxruntime, number)):
        return None
    return judge_cuda(installed_runtimes(), providers, missing_driver() or said)


def judge_cuda(distributions: Sequence[str], providers: Sequence[str], said: str) -> Problem | None:
    """Return what is wrong with an installation that shall compute on a GPU; None if nothing is known to be.

    Args:
        distributions: The installed packages that are ONNX Runtime.
        providers: What the one that is imported offers.
        said: Why CUDA could not be used all the same; empty if it could, or was not tried.
    """
    names = " ".join(distributions)
    # Pyserini requires onnxruntime: an extra of this package would install both once more.
    reinstall = f"pip uninstall -y {names or MODULE}, then pip install '{CUDA_PACKAGE}'"
    if CUDA_PROVIDER not in providers:
        if len(distributions) > 1:
            return Problem(f"{' and '.join(distributions)} are installed over each other, and CUDA was lost", reinstall)
        return Problem(f"{names or MODULE} computes on the CPU only", reinstall)
    if not said:
        return None
    if len(distributions) > 1:
        return Problem(
            f"{' and '.join(distributions)} are installed over each other, and CUDA does not start: {said}", reinstall
        )
    if said.startswith(NO_DRIVER):
        return Problem(said, "install it, or give the container its GPU")
    what = f"ONNX Runtime cannot use CUDA: {said}"
    if "Failed to load" in said:
        return Problem(what, f"pip install '{CUDA_PACKAGE}', or import a torch with the same CUDA first")
    return Problem(what, "look with nvidia-smi whether the device is there and its driver new enough")


def available_providers() -> list[str]:
    """Return what the ONNX Runtime that is imported computes with; nothing if it is missing or damaged."""
    try:
        import onnxruntime
    except ImportError:
        return []
    # Packages that were installed over each other own the same files: with one of them the other's are uninstalled,
    # and a folder without a module is left.
    return list(onnxruntime.get_available_providers()) if hasattr(onnxruntime, "InferenceSession") else []


def installed_runtimes() -> tuple[str, ...]:
    """Return the installed distributions of ONNX Runtime; all of them write into one folder."""
    return tuple(sorted(set(metadata.packages_distributions().get(MODULE, ()))))


def missing_driver() -> str:
    """Return why NVIDIA's driver cannot be loaded, without which there is no GPU to compute on; empty if it can."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return f"{NO_DRIVER}: {one_line(error)}"
    return ""


def _failure(runtime: ModuleType, number: int) -> str:
    """Return why a session on a CUDA device does not come about; empty if it does."""
    printed = io.StringIO()
    options = runtime.SessionOptions()
    options.log_severity_level = _SILENT
    runtime.set_default_logger_severity(_SILENT)  # what it would print is in the reason
    try:
        # CUDA's libraries lie in packages of their own, where no loader looks. What is missing is printed.
        with contextlib.redirect_stdout(printed):
            runtime.preload_dlls()
        session = runtime.InferenceSession(_ONE_NODE, options, providers=provider_options(number), enable_fallback=0)
    except Exception as error:  # the library's exceptions have no common base
        return one_line(error)
    finally:
        runtime.set_default_logger_severity(_WARNINGS)
    if CUDA_PROVIDER in session.get_providers():
        return ""
    return next(iter(printed.getvalue().splitlines()), "it does not say why")
