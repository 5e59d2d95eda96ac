"""Ranks: the processes that a launcher, such as mpirun or srun, has started together, and their MPI.

mpi4py is imported here alone, and only where ranks are to work together.
"""

import os
import socket
import sys
import time
import warnings
from typing import TYPE_CHECKING

from eqpot.errors import UserError
from eqpot.words import counted, plain

if TYPE_CHECKING:
    from mpi4py.MPI import Comm

# Size and rank as MPICH and its relatives, Open MPI and SLURM tell them. A job script of SLURM has ranks of a
# job in its environment, but no step.
TOLD = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

LAST_WORDS = 0.2  # s; MPICH's launcher may drop what was written just before a rank aborts


def launched() -> tuple[int, int]:
    """This process's rank, and how many there are, by the environment; 0 and 1 where no launcher tells."""
    for pair in TOLD:
        size, rank = (os.environ.get(name, "") for name in pair)
        if size.isdecimal() and rank.isdecimal():
            return int(rank), int(size)
    return 0, 1


def world() -> tuple["Comm", str]:
    """All ranks, and a line about them; kernels get a fair share of the machine's cores.

    It comes before anything that imports Numba, which takes its threads once. UserError where MPI is missing,
    or another than the launcher's.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of mpi4py's, at another launcher: told below
            from mpi4py import MPI
    except (ImportError, RuntimeError) as e:  # no mpi4py; no library that it could load
        raise UserError(
            f"--mpi: expected mpi4py and MPI, found none ({e}); pip install 'eqpot[mpi]' brings both"
        ) from e
    comm, started = MPI.COMM_WORLD, launched()[1]
    if comm.size == 1 and started > 1:
        library = MPI.Get_library_version().split()[0]
        raise UserError(
            f"--mpi: expected the {started} ranks that were started to find each other, found each alone: "
            f"mpi4py has {library}, whose launcher this was not; under SLURM try srun --mpi=pmi2 (srun "
            "--mpi=list shows others), else take the mpirun of this environment"
        )
    from ase import parallel

    # one rank reads and writes, where ASE's functions must not wait for the others
    parallel.world.comm = parallel.DummyMPI()
    machines = comm.allgather((socket.gethostname(), _cores()))
    here = [cores for name, cores in machines if name == socket.gethostname()]
    fair = max(1, len(set().union(*here)) // len(here))
    each = comm.allgather(os.environ.setdefault("NUMBA_NUM_THREADS", str(fair)))
    threads = each[0] if len(set(each)) == 1 else f"{min(each, key=int)} to {max(each, key=int)}"
    on = counted(len({name for name, _ in machines}), "machine")
    return comm, f"{counted(comm.size, 'rank')} on {on}, {threads} thread{'s' * (threads != '1')} each"


def end_all(comm: "Comm", line: str) -> None:
    """Ends all ranks where this one cannot go on, after a line that says why."""
    print(f"error: {plain(line)}", file=sys.stderr, flush=True)
    time.sleep(LAST_WORDS)
    comm.Abort(2)


def _cores() -> set[int]:
    """Those that this rank may use: launchers that bind ranks give each its own."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
