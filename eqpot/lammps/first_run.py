"""The input of a first run in LAMMPS: a structure as a data file, and a script of dynamics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.lammpsdata import write_lammps_data

from eqpot.errors import UserError
from eqpot.files import replacing

DATA, SCRIPT, FRAMES = "structure.data", "in.lammps", "frames.lammpstrj"
EVERY = 100  # steps from frame to frame
TIMESTEP = 0.5  # fs, as `eqpot md`

TEXT = """\
# {made}
# Once: eqpot lammps build. Then, in this folder and on two cores: mpirun -n 2 lmp -in {script}
units metal  # eV, Angstrom, ps, bar
atom_style atomic
boundary {boundary}
newton on
read_data {data}

pair_style eqpot {model}
pair_coeff * * {symbols}
neighbor 1.0 bin

{velocities}fix dynamics all nvt temp {temperature:g} {temperature:g} 0.1
timestep {timestep:g}
thermo {every}
thermo_style custom step time temp pe etotal press
dump frames all custom {every} {frames} id element x y z
dump_modify frames element {symbols} sort id
run {steps}
"""


def boxed(atoms: Atoms, name: str) -> Atoms:
    """A copy whose cell contains the atoms where it is not periodic, and right-handed, as LAMMPS' box is.

    UserError, beginning with `name`, at atoms of one element but of several masses.
    """
    for z in set(atoms.numbers):
        if np.ptp(atoms.get_masses()[atoms.numbers == z]) > 1e-6:
            raise UserError(f"{name}, masses: expected one for all {chemical_symbols[z]}, found several")
    atoms = atoms.copy()
    if not atoms.pbc.all():
        atoms.center(vacuum=1.0, axis=tuple(np.flatnonzero(~atoms.pbc)))
    if np.linalg.det(atoms.cell[:]) < 0:  # ASE would write the mirror image
        atoms.set_cell(atoms.cell[[1, 0, 2]])
        atoms.pbc = atoms.pbc[[1, 0, 2]]
    return atoms


def write_data(path: Path, atoms: Atoms, species: Sequence[int]) -> None:
    """The structure as a data file: types in the order of `species`, velocities where the atoms have some."""
    with replacing(path) as temporary:
        write_lammps_data(
            *(temporary, atoms),
            specorder=[chemical_symbols[z] for z in species],
            units="metal",
            masses=True,
            velocities=atoms.get_momenta().any(),
        )


def script(
    atoms: Atoms, species: Sequence[int], model: str, made: str, temperature: float, steps: int
) -> str:
    """Of dynamics, temperature in K; made: how it was, for the first line.

    UserError at the path of a model that no script can name.
    """
    full = str(Path(model).resolve())
    if not (full.isascii() and full.isprintable()) or set('"$&') & set(full):
        raise UserError(f'{full}: expected a path of ASCII without ", $ and &, as LAMMPS reads it')
    return TEXT.format(
        made=made.encode("ascii", "replace").decode(),
        script=SCRIPT,
        data=DATA,
        frames=FRAMES,
        boundary=" ".join("p" if periodic else "s" for periodic in atoms.pbc),
        model=f'"{full}"' if set(" #") & set(full) else full,
        symbols=" ".join(chemical_symbols[z] for z in species),
        velocities="" if atoms.get_momenta().any() else f"velocity all create {temperature:g} 1\n",
        temperature=temperature,
        timestep=TIMESTEP / 1000,
        every=EVERY,
        steps=steps,
    )
