"""What the benchmark scripts share: their options, the JSON file in which results accumulate, and how time is
measured on a GPU."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits
from workloads import HERE

from eqpot.backend import array_module, resolve
from eqpot.benchmark import machine
from eqpot.errors import UserError
from eqpot.kernels.cuda import SIMULATED
from eqpot.threads import most_threads
from eqpot.timing import median_time

# Rows and columns of a matrix product that a GPU is busy with for milliseconds.
LONG = 64 if SIMULATED else 8192
COPIED = 1 << (10 if SIMULATED else 28)  # float32 numbers of a copy


def parser(
    doc: str, names: Sequence[str], seconds: float, each: str, threads: bool = True
) -> argparse.ArgumentParser:
    """--only, --seconds and, with `threads`, --threads, under the first line of a script's docstring."""
    found = argparse.ArgumentParser(description=doc.split("\n")[0])
    if threads:
        found.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, most_threads())}))
    found.add_argument("--only", nargs="+", choices=names, default=list(names))
    found.add_argument("--seconds", type=float, default=seconds, help=f"for each {each}")
    return found


def check_device(arguments: argparse.ArgumentParser, device: str) -> None:
    """End with exit status 2 where the device cannot be used."""
    try:
        resolve(device)
    except UserError as e:
        arguments.error(str(e))


def command_line() -> str:
    """How this script was called."""
    return f"python bench/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()


def matrix_rate(threads: int) -> float:
    """Operations per second of NumPy's float32 product of two matrices of 2048 x 2048, the best of ten."""
    n, times = 2048, []
    a, b = np.random.default_rng(0).random((2, n, n), np.float32)
    with threadpool_limits(threads):
        for _ in range(10):
            began = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - began)
    return 2 * n**3 / min(times)


# ---- on a GPU


def wait() -> None:
    """Until the GPU has done all that it was asked for."""
    if not SIMULATED:
        array_module("cuda").cuda.Device().synchronize()


def gpu_seconds(action: Callable[[], object], limit: float, repeats: int = 10) -> float:
    """Time of an action on the GPU alone, the median over series of `repeats` for about `limit` seconds.

    The calls of a series are queued while the GPU works on a long matrix product, so that it waits for none
    of their launches. In the simulator the time of some calls.
    """
    if SIMULATED:
        return median_time(action, 0.0)
    cp, times = array_module("cuda"), []
    busy = cp.ones((LONG, LONG), np.float32)
    action()
    ends = time.perf_counter() + limit
    while len(times) < 3 or time.perf_counter() < ends:
        start, end = cp.cuda.Event(), cp.cuda.Event()
        cp.matmul(busy, busy)
        start.record()
        for _ in range(repeats):
            action()
        end.record()
        end.synchronize()
        times.append(cp.cuda.get_elapsed_time(start, end) / 1000 / repeats)
    return median(times)


def gpu_limits() -> dict[str, float]:
    """Operations per second of a long float32 matrix product (no TF32, unless CUPY_TF32 is set), bytes per
    second of a copy of 1 GiB (read and written)."""
    cp = array_module("cuda")
    a = cp.random.default_rng(0).random((LONG, LONG), np.float32)
    source = cp.zeros(COPIED, np.float32)
    target = cp.empty_like(source)
    return {
        "flops": 2 * LONG**3 / gpu_seconds(lambda: cp.matmul(a, a), 0.5),
        "bytes": 2 * source.nbytes / gpu_seconds(lambda: cp.copyto(target, source), 0.5),
    }


# ---- results


def results_path(card: str | None = None) -> Path:
    """Where this script's results go: those of a card into a file of its own."""
    stem = Path(sys.argv[0]).stem
    suffix = "_" + re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_") if card else ""
    return HERE / "results" / f"{stem}{suffix}.json"


class Record:
    """Results by name, those of earlier runs among them, each with machine and command."""

    def __init__(self) -> None:
        self.machine = machine()
        self.path = results_path()
        self.results = self._stored()
        self._common = {"machine": self.machine, "command": command_line()}
        self._added: dict[str, dict] = {}

    def _stored(self) -> dict[str, dict]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, name: str, **entry: object) -> None:
        self.results[name] = self._added[name] = {**entry, **self._common}

    def write(self) -> str:
        """Write the file, to which another run may have added meanwhile; a line that says so."""
        self.results = {**self._stored(), **self._added}
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=2) + "\n")
        return f"wrote {self.path}"
