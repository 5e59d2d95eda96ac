"""The demonstration set: ethanol at 500 K, Langevin dynamics on GFN2-xTB forces."""

import os
from collections.abc import Callable

import numpy as np
from ase import units
from ase.build import molecule
from ase.md.langevin import Langevin

from eqpot.errors import UserError
from eqpot.files import check_output
from eqpot.structures.data import Dataset, write_dataset

FRICTION = 0.01  # 1/fs: velocities forget themselves within 100 fs
TIME_STEP = 0.5  # fs, a twentieth of the period of the O-H stretch


def sample(
    out: str | os.PathLike,
    frames: int = 1000,
    *,
    temperature: float = 500.0,
    interval: float = 50.0,
    equilibrate: float = 2000.0,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Write ``frames`` frames of ethanol at ``temperature`` K, ``interval`` fs apart after ``equilibrate``.

    The same seed on the same machine and versions gives the same frames. ``progress(done, frames)`` is called
    at every frame kept. UserError when tblite is missing, a number illegal, or ``out`` there already.
    """
    check_output(out, overwrite)
    if frames < 1 or temperature <= 0 or interval < TIME_STEP or equilibrate < 0:
        raise UserError(
            f"sample: expected frames >= 1, temperature > 0 K, interval >= {TIME_STEP} fs, "
            f"equilibration >= 0 fs; "
            f"found {frames}, {temperature:g}, {interval:g}, {equilibrate:g}"
        )
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise UserError(
            f"tblite cannot be imported ({error}): it comes with the extra eqpot[demo]"
        ) from error

    atoms = molecule("CH3CH2OH")
    # accuracy 0.1 tightens the self-consistency: at the default its noise would be part of the forces
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)
    rng = np.random.default_rng(seed)
    thermal = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(thermal * rng.standard_normal((len(atoms), 3)))
    dynamics = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(round(equilibrate / TIME_STEP))
    positions, energy, forces = [], [], []
    for done in range(1, frames + 1):
        dynamics.run(round(interval / TIME_STEP))
        positions.append(atoms.positions - atoms.get_center_of_mass())
        energy.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        if progress:
            progress(done, frames)
    command = (
        f"eqpot data sample {os.path.basename(os.fspath(out))} --frames {frames} "
        f"--temperature {temperature:g} --interval {interval:g} --equilibrate {equilibrate:g} --seed {seed}"
    )
    dataset = Dataset(
        atom_ptr=np.arange(frames + 1) * len(atoms),
        numbers=np.tile(atoms.numbers, frames).astype(np.uint8),
        positions=np.concatenate(positions),
        cell=np.zeros((frames, 3, 3)),
        pbc=np.zeros((frames, 3), dtype=bool),
        energy=np.array(energy),
        forces=np.concatenate(forces),
        attrs={
            "source": f"ethanol, Langevin dynamics at {temperature:g} K, a frame every {interval:g} fs after "
            f"{equilibrate:g} fs, time step {TIME_STEP} fs, friction {FRICTION}/fs",
            "level_of_theory": "GFN2-xTB (tblite)",
            "command": command,
            "seed": seed,
        },
    )
    write_dataset(out, dataset)
    return dataset
