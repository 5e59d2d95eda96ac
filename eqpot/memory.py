"""How much memory there is for arrays, and how much is taken."""

import math
import os
import sys
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None


def memory() -> float:
    """Bytes that this process may have: the machine's, its container's, or what `ulimit -v` says; infinite
    where nothing tells."""
    bounds = [math.inf]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        bounds.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or the word "max"
            bounds.append(int(Path("/sys/fs/cgroup", path).read_text()))
    if resource is not None and (soft := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        bounds.append(soft)
    return min(bounds)


def free_memory() -> float:
    """Bytes of it that nobody uses, where Linux tells, else all."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return min(memory(), next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")))
    return memory()


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
