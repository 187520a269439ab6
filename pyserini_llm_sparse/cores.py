"""How many CPU cores this process may use, where that is fewer than the machine has."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU time and of the period that they are for


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


def cores_each(processes: int) -> int:
    """Return how many cores each of several processes on this machine should use."""
    return max(1, (allowed_cores() or os.cpu_count() or 1) // processes)
