"""How long a new process takes to import eqpot, and from its start to the end of its first force call.

    python bench/startup.py

With no compiled kernel on the disk (once), and with the kernels of that first process (median of five).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from recording import Record
from rich.console import Console
from rich.table import Table

IMPORT = "import eqpot"
FIRST_CALL = """
from ase import Atoms
from eqpot import EqpotCalculator, Potential

atoms = Atoms("OHH", [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
atoms.calc = EqpotCalculator(Potential.create(species=["H", "O"]))
atoms.get_forces()
"""


def seconds(program: str, cache: str) -> float:
    """Wall time of a process that keeps its compiled functions in the folder `cache`."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-c", program], env=os.environ | {"NUMBA_CACHE_DIR": cache}, check=True
    )
    return time.perf_counter() - began


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    console, record = Console(), Record()
    with tempfile.TemporaryDirectory() as cache:
        python = median(seconds("", cache) for _ in range(5))
        found = {
            "import": median(seconds(IMPORT, cache) for _ in range(5)) - python,
            "first force call, nothing compiled": seconds(FIRST_CALL, cache),
            "first force call, kernels on disk": median(seconds(FIRST_CALL, cache) for _ in range(5)),
        }
    table = Table("", "seconds")
    for name, value in found.items():
        record.add(name, seconds=value)
        table.add_row(name, f"{value:.2f}")
    console.print(table)
    console.print(record.write())


if __name__ == "__main__":
    main()
