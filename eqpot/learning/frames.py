"""Frames of a run: shaken to begin with, known by their geometry, put together to data sets."""

import hashlib
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eqpot.structures.data import Dataset

USUAL = 0.9  # of the frames that dynamics lead through


def unlabelled(frames: Sequence[Atoms], groups: Sequence[str]) -> Dataset:
    """A data set of structures alone, each in a group."""
    return Dataset(
        np.cumsum([0, *map(len, frames)]),
        np.concatenate([atoms.numbers for atoms in frames]).astype(np.uint8),
        np.concatenate([atoms.positions for atoms in frames]),
        np.array([atoms.cell[:] for atoms in frames]),
        np.array([atoms.pbc for atoms in frames]),
        group=np.array(groups, dtype=object),
    )


def identity(atoms: Atoms) -> str:
    """The same for the same elements, positions, cell and periodicity alone, to the last bit."""
    arrays = (
        atoms.numbers.astype(np.int64),
        atoms.positions.astype(np.float64),
        atoms.cell[:].astype(np.float64),
        atoms.pbc,
    )
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in arrays)).hexdigest()[:24]


def shaken(
    structure: Atoms, count: int, rattle: float, strain: float, random: np.random.Generator
) -> list[Atoms]:
    """The structure itself, then copies with atoms displaced by up to `rattle` (Å, standard deviation; fixed
    ones stay) and, in periodic directions, strained by up to `strain`."""
    frames = [structure.copy()]
    for part in np.linspace(0.25, 1, count - 1):
        atoms = structure.copy()
        deformation = random.uniform(-strain, strain, (3, 3))
        deformation[~atoms.pbc] = deformation[:, ~atoms.pbc] = 0.0
        deformation = np.eye(3) + part * (deformation + deformation.T) / 2
        atoms.set_cell(atoms.cell[:] @ deformation, scale_atoms=True)
        displacement = random.normal(scale=part * rattle, size=(len(atoms), 3))
        atoms.set_positions(atoms.positions + displacement, apply_constraint=True)
        frames.append(atoms)
    for atoms in frames:
        atoms.calc = None
    return frames


def weights(data: Dataset, drawn: np.ndarray) -> np.ndarray:
    """Of the errors of frames in fits, [n], at most 1: the square of f / F.

    F: root mean square of a frame's force components; f: what `USUAL` of the frames `drawn` [n] at random
    from dynamics stay below, without any infinite. Errors grow with forces, and in a sum of squares frames
    that the dynamics would hardly meet, shaken ones or those beyond a threshold, would outweigh the others.
    """
    square = np.add.reduceat(np.sum(data.forces**2, axis=1), data.atom_ptr[:-1]) / data.sizes
    usual = np.quantile(square[drawn], USUAL) if drawn.any() else np.inf
    return np.minimum(1.0, usual / np.maximum(square, 1e-300))


def labelled(frames: Dataset, labels: Sequence[dict]) -> Dataset:
    """Frames with the labels that were computed; those that failed are left out."""
    there = [k for k, label in enumerate(labels) if "failed" not in label]
    found = frames.subset(there)
    chosen = [labels[k] for k in there]
    unknown = np.full((3, 3), np.nan)
    found.energy = np.array([label["energy"] for label in chosen], float)
    found.forces = np.concatenate([np.empty((0, 3)), *(label["forces"] for label in chosen)])
    stress = [unknown if label["stress"] is None else label["stress"] for label in chosen]
    if any(label["stress"] is not None for label in chosen):
        found.stress = np.array(stress, float)
    return found
