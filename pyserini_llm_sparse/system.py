"""The machine and what is on it: cores and what they are good at, versions, folders, the environment of a process."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

LOGGER = "pyserini_llm_sparse"  # the parent of the loggers of all modules
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU time and of the period that they are for
CPU_INFO = Path("/proc/cpuinfo")
_WINDOWS_DOT = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE


def allowed_cores(quota: Path = CGROUP_QUOTA) -> int | None:
    """Return the number of cores that the process is bound to, by its affinity or its container; None for no bound.

    Libraries that count the machine's cores start more threads than there is time for, and those wait for each other.

    Args:
        quota: The file in which Linux says how much time a container has.
    """
    bounds = []
    if hasattr(os, "sched_getaffinity"):  # on Linux alone
        bound = len(os.sched_getaffinity(0))
        if bound < (os.cpu_count() or bound):
            bounds.append(bound)
    try:
        time, period = quota.read_text(encoding="ascii").split()
        bounds.append(max(1, round(int(time) / int(period))))
    except (OSError, ValueError):  # no such system, or "max" for no bound
        pass
    return min(bounds, default=None)


def multiplies_int8(info: Path = CPU_INFO) -> bool:
    """Return whether the cores are known to have instructions for sums of products in int8.

    Without them, on x86 older than AVX-VNNI and AVX512-VNNI or ARM older than its dot products, int8 is no faster than
    float32. Not knowing is a no: the fast sums of such x86 processors saturate, and exact ones must be asked for.

    Args:
        info: The file in which Linux describes the cores.
    """
    return not {"avx_vnni", "avx512_vnni", "asimddp"}.isdisjoint(processor_features(info))


def multiplies_bfloat16(info: Path = CPU_INFO) -> bool:
    """Return whether the cores are known to have instructions for products in bfloat16.

    Without them torch takes several times as long as in float32.

    Args:
        info: See `multiplies_int8`.
    """
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor_features(info))


def processor_features(info: Path = CPU_INFO) -> frozenset[str]:
    """Return what the first core is reported to have, in Linux's words; nothing where it is not known.

    Of other systems only dot products on ARM are known. Windows reports them; each processor of Apple's has them.

    Args:
        info: See `multiplies_int8`.
    """
    words = processor_field("flags", info) or processor_field("Features", info) or ""  # x86's, ARM's
    if platform.machine() in ("arm64", "ARM64") and (sys.platform == "darwin" or _windows_reports(_WINDOWS_DOT)):
        words += " asimddp"
    return frozenset(words.split())


def _windows_reports(feature: int) -> bool:
    """Return whether Windows says that the processor has a feature; False on other systems."""
    windows = getattr(ctypes, "windll", None)
    return windows is not None and bool(windows.kernel32.IsProcessorFeaturePresent(feature))


def processor_field(name: str, info: Path = CPU_INFO) -> str | None:
    """Return what Linux says of the first core under a name, such as ``model name``; None where it says nothing.

    Args:
        name: Of the field.
        info: See `multiplies_int8`.
    """
    try:
        lines = info.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def cores_each(processes: int) -> int:
    """Return how many cores each of several processes on this machine should use."""
    return max(1, (allowed_cores() or os.cpu_count() or 1) // processes)


def last_line(printed: str) -> str:
    """Return the last line that says something of what a command printed."""
    lines = (" ".join(line.split()) for line in reversed(printed.splitlines()))
    return next((line[:300] for line in lines if line), "it printed nothing")


def home_folder() -> Path | None:
    """Return the user's home folder; None if there is none, as in a container that runs under a bare number."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_dir() else None


def own_environment() -> dict[str, str]:
    """Return the environment of a child that must find this very package, also where it is not installed."""
    home = str(Path(__file__).resolve().parents[1])
    if home == sysconfig.get_path("purelib"):
        return dict(os.environ)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def installed_version(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
