"""The reference: what computes energies, forces and stress of chosen frames, in processes of its own.

    emt                 ASE's effective medium theory
    tblite:GFN2-xTB     a method of tblite
    FILE.py:NAME        an ASE calculator, or a function (or class) that returns one

Each frame gets a fresh calculator, or one that was reset, so that its labels do not depend on what a process
computed before. What was computed is written at once, by the process that computed it, as a file of JSON:

    {"energy": eV, "forces": [n][3] eV/Å, "stress": [3][3] eV/Å^3 or null, "seconds": s}
    {"failed": reason}
"""

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from eqpot.errors import UserError
from eqpot.files import shown, write_json
from eqpot.schema import TEXT, Rule, check, number, parse
from eqpot.threads import cores

LABELS: Rule = {
    "energy": number(),
    "forces": [[number()]],
    "stress": ("nine numbers or null", lambda x: x is None or np.shape(x) == (3, 3)),
    "seconds": number(low=0),
}
FAILED: Rule = {"failed": TEXT}
DYING = 5.0  # s, until a process that has closed its connection is gone
MOST_FORCE = 100.0  # eV/Å; a frame with a larger one teaches nothing that dynamics should meet
Make = Callable[[], Calculator]
Task = tuple[Path, Atoms]  # where the labels go


def maker(name: str) -> Make:
    """What gives a calculator for a frame. UserError, naming the option, where there is none."""
    if name == "emt":
        from ase.calculators.emt import EMT

        return EMT
    if name.startswith("tblite:"):
        return _tblite(name)
    path, colon, attribute = name.rpartition(":")
    if not (colon and path.endswith(".py") and attribute):
        raise UserError(f"--reference: expected emt, tblite:METHOD or FILE.py:NAME, found {name[:80]!r}")
    return _of_file(Path(path), attribute)


def relative(name: str, folder: str | Path) -> str:
    """The name of a reference, with the path of its file, if it has one, as seen from a run folder."""
    path, colon, attribute = name.rpartition(":")
    return os.path.relpath(path, folder) + colon + attribute if path.endswith(".py") else name


def absolute(name: str, folder: str | Path) -> str:
    """What `relative` was given, from anywhere."""
    path, colon, attribute = name.rpartition(":")
    return os.path.abspath(os.path.join(folder, path)) + colon + attribute if path.endswith(".py") else name


def _tblite(name: str) -> Make:
    method = name.partition(":")[2]
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise UserError(
            f"--reference {name}: tblite cannot be imported ({error}); install it: pip install 'eqpot[demo]'"
        ) from error

    def make() -> Calculator:
        return TBLite(method=method, accuracy=0.1, verbosity=0)

    try:  # its own error comes with the first calculation
        make().get_potential_energy(Atoms("H2", [[0, 0, 0], [0, 0, 0.75]]))
    except Exception as error:
        raise UserError(f"--reference {name}: expected a method of tblite ({_short(error)})") from error
    return make


def _of_file(path: Path, attribute: str) -> Make:
    where = f"--reference {shown(path)}:{attribute}"
    if not path.is_file():
        raise UserError(f"{where}: expected a Python file, found no such file")
    sys.path.insert(0, str(path.resolve().parent))  # for what it imports
    try:
        spec = importlib.util.spec_from_file_location("eqpot_reference", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{where}: cannot be run ({_short(error)})") from error
    found = getattr(module, attribute, None)
    if found is None:
        raise UserError(f"{where}: expected that name in the file, found none")
    if isinstance(found, Calculator):
        return lambda: (found.reset(), found)[1]
    if not callable(found):
        raise UserError(f"{where}: expected a calculator or a function, found a {type(found).__name__}")
    return found


def compute(make: Make, atoms: Atoms) -> dict[str, Any]:
    """Labels of a frame, or why there are none."""
    began, atoms = time.monotonic(), atoms.copy()
    try:
        atoms.calc = make()
        energy, forces = float(atoms.get_potential_energy()), atoms.get_forces(apply_constraint=False)
        stress = None
        if atoms.pbc.all() and "stress" in atoms.calc.implemented_properties:
            stress = atoms.get_stress(voigt=False)
    except Exception as error:  # calculators raise what they please
        return {"failed": _short(error)}
    values = [energy, forces, 0.0 if stress is None else stress]
    if not all(np.isfinite(value).all() for value in values):
        return {"failed": "expected finite energy, forces and stress, found NaN or infinity"}
    if (largest := np.linalg.norm(forces, axis=1).max()) > MOST_FORCE:
        return {"failed": f"expected forces up to {MOST_FORCE:g} eV/Å, found {largest:.4g}"}
    return {
        "energy": energy,
        "forces": forces.tolist(),
        "stress": None if stress is None else stress.tolist(),
        "seconds": time.monotonic() - began,
    }


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def read_labels(path: Path, atoms: int) -> dict[str, Any]:
    """What was computed, or {"failed": reason}, of a frame of so many atoms. UserError at a damaged file."""
    try:
        found = parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read: {e}") from e
    if isinstance(found, dict) and "failed" in found:
        check(found, FAILED, str(path))
        return found
    check(found, LABELS, str(path))
    if np.shape(found["forces"]) != (atoms, 3):
        raise UserError(f"{path}: forces: expected {atoms} rows of 3 numbers, found others")
    return found


# ------------------------------------------------------------ processes


def compute_all(name: str, tasks: Sequence[Task], workers: int, folder: Path) -> Iterator[Path]:
    """Compute frames in `workers` processes; gives each file as soon as it is written.

    Process k works in the folder worker_k of `folder`. One that dies while it computes has failed at that
    frame. All end when this does, killed or not.
    """
    left, count = list(reversed(tasks)), min(workers, len(tasks))
    staff = [_Worker(name, folder / f"worker_{k + 1}", count) for k in range(count)]
    try:
        for worker in staff:
            worker.give(left.pop())
        while busy := {worker.connection: worker for worker in staff if worker.task}:
            for connection in wait(list(busy)):
                worker = busy[connection]
                yield worker.done()
                if left:
                    worker.give(left.pop())
    finally:
        for worker in staff:
            worker.end()


class _Worker:
    """A process that computes one frame after the other, and what it is doing."""

    def __init__(self, name: str, folder: Path, count: int):
        self.name, self.folder, self.count = name, folder, count
        self.task: Task | None = None
        self.process = None

    def _start(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = theirs, self.name, self.folder, max(1, cores() // self.count)
        self.process = context.Process(target=_work, args=arguments)
        self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        if self.process is None:
            self._start()
        self.task = task
        with suppress(OSError):  # it has died: `done` tells
            self.connection.send(task)

    def done(self) -> Path:
        """After its connection has something to say: its file, which is there, whatever happened."""
        path, self.task = self.task[0], None
        try:
            self.connection.recv()
        except (EOFError, OSError):
            self.process.join(DYING)
            code = self.end()
            if not path.exists():
                write_json(path, {"failed": f"its process ended with code {code}"})
        return path

    def end(self) -> int | None:
        """Its exit code, where there was a process."""
        if self.process is None:
            return None
        self.connection.close()
        if self.process.is_alive():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # and what its calculator has started
            self.process.kill()  # where it has no group of its own yet
            self.process.join()
        code, self.process = self.process.exitcode, None
        return code


def _work(connection: Connection, name: str, folder: Path, threads: int) -> None:
    """In the process: compute what comes. Its group ends with the process that started it."""
    with suppress(PermissionError):
        os.setsid()  # Ctrl-C is answered by who started it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    make = maker(name)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    while True:
        try:
            path, atoms = connection.recv()
        except EOFError:
            return
        write_json(path, compute(make, atoms))
        connection.send(True)


def _end_with_parent() -> None:
    parent_process().join()
    os.killpg(0, signal.SIGKILL)
