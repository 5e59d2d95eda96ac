"""What the benchmark scripts share: their options, and the JSON file in which results accumulate."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from workloads import HERE

from eqpot.bench import machine
from eqpot.threads import most_threads


def parser(doc: str, names: Sequence[str], seconds: float, each: str) -> argparse.ArgumentParser:
    """--threads, --only and --seconds, under the first line of a script's docstring."""
    found = argparse.ArgumentParser(description=doc.split("\n")[0])
    found.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, most_threads())}))
    found.add_argument("--only", nargs="+", choices=names, default=list(names))
    found.add_argument("--seconds", type=float, default=seconds, help=f"for each {each}")
    return found


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


class Record:
    """Results by name, those of earlier runs among them, each with machine and command."""

    def __init__(self) -> None:
        self.path = HERE / "results" / f"{Path(sys.argv[0]).stem}.json"
        self.results: dict[str, dict] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self._common = {"machine": machine(), "command": command_line()}

    def add(self, name: str, **entry: object) -> None:
        self.results[name] = {**entry, **self._common}

    def write(self) -> str:
        """Write the file; a line that says so."""
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=2) + "\n")
        return f"wrote {self.path}"
