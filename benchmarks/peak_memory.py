"""Peak memory of a benchmark's case, each in a process of its own: a peak never comes down again."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def peak() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the process was before it started this program: its parent's memory
        found = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(found) / (1 << 10)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def in_own_process(script: str, arguments: Sequence[object]) -> dict[str, float]:
    """Run a script in a new interpreter, and read the JSON that it prints."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def median_of(script: str, arguments: Sequence[object], repeats: int) -> dict[str, float]:
    """Run a script several times. Returns the median of each number that it prints."""
    runs = [in_own_process(script, arguments) for _ in range(repeats)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
