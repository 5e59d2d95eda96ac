"""A data set small enough to train on in a second: Lennard-Jones atoms of two elements in a periodic box."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones

from eqpot.structures.data import Dataset

MODEL = {"features": 4, "blocks": 2, "cutoff": 3.5, "basis_size": 4, "radial_width": 4}


def toy_dataset(frames: int = 12, seed: int = 0, symbols: str = "H2O2") -> Dataset:
    """Shaken clusters of 4 atoms, labelled with energy, forces and stress; groups "cold" and "warm"."""
    rng = np.random.default_rng(seed)
    corners = 1.6 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) + 1.0
    rows = {name: [] for name in ("numbers", "positions", "cell", "pbc", "energy", "forces", "stress")}
    for k in range(frames):
        atoms = Atoms(
            symbols, corners + (0.1 + 0.1 * (k % 2)) * rng.normal(size=(4, 3)), cell=[6, 6, 6], pbc=True
        )
        atoms.calc = LennardJones(sigma=1.9, epsilon=0.1, rc=3.4, smooth=True)
        rows["numbers"].append(atoms.numbers)
        rows["positions"].append(atoms.positions)
        rows["cell"].append(atoms.cell.array)
        rows["pbc"].append(atoms.pbc)
        rows["energy"].append(atoms.get_potential_energy() - 3.0 * (atoms.numbers == 8).sum())
        rows["forces"].append(atoms.get_forces())
        rows["stress"].append(atoms.get_stress(voigt=False))
    per_atom = ("numbers", "positions", "forces")
    arrays = {k: np.concatenate(v) if k in per_atom else np.array(v) for k, v in rows.items()}
    arrays["numbers"] = arrays["numbers"].astype(np.uint8)
    group = np.array([("cold", "warm")[k % 2] for k in range(frames)], dtype=object)
    return Dataset(np.arange(frames + 1) * 4, group=group, **arrays)


def unsealed(path: Path) -> Path:
    """Take the checksum off an own file: like one from before there was any, it may be edited."""
    path.write_bytes(path.read_bytes()[512:])
    return path
