"""What a committee predicts, and by how much its models deviate from each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames
from eqpot.training.validation import predict

if TYPE_CHECKING:
    from eqpot.potential import Potential


@dataclass(frozen=True)
class Forecast:
    """Of frames with `atoms` atoms in all: mean energies [frames] (eV) and forces [atoms, 3] (eV/Å) of the
    committee, and the root mean square, over members and components, of what an atom's force deviates by
    [atoms] (eV/Å)."""

    energy: np.ndarray
    forces: np.ndarray
    deviation: np.ndarray


def forecast(potentials: Sequence["Potential"], data: Dataset) -> Forecast:
    """UserError at an element that a model does not know."""
    frames: dict[tuple, Frames] = {}
    found = []
    for p in potentials:
        key = p.species, p.config.cutoff
        frames.setdefault(key, Frames(data, *key))
        found.append(predict(p, frames[key]))
    forces = np.array([labels.forces for labels in found])
    deviation = np.sqrt(forces.var(axis=0).mean(axis=1))
    return Forecast(np.mean([labels.energy for labels in found], axis=0), forces.mean(axis=0), deviation)
