"""Labels in proportion to predictions: of the other sign, or in another unit.

A potential that has learned anything predicts forces, and differences of energies, in proportion to those of
the reference, with a factor near 1. Where the proportion is close and its factor is another one, a convention
differs between the labels and what the potential was fitted to; or, at the end of a fit, between its energies
and forces.
"""

import math
from collections.abc import Mapping

import numpy as np
from ase import units

from eqpot.structures.data import Dataset
from eqpot.structures.frames import Labels
from eqpot.units import ENERGY_UNITS

CLOSE = 0.9  # correlation from which two are in proportion
ALIKE = 3.0  # factors up to this, or one over it, are those of a poor potential
NEAR = 0.12  # of a unit's factor, relative
# What labels in eV and Å look like where others are taken for them: numbers in these.
ENERGIES: Mapping[str, float] = {name: value for name, value in ENERGY_UNITS.items() if name != "eV"}
FORCES = (
    {f"{name}/Ang": value for name, value in ENERGIES.items()}
    | {f"{name}/Bohr": value / units.Bohr for name, value in ENERGIES.items()}
    | {"eV/Bohr": 1 / units.Bohr}
)


class Proportions:
    """Of labels to predictions, of frames that come in parts; sums are all that it keeps."""

    def __init__(self) -> None:
        self._forces = np.zeros(3)
        # by composition, whose constant is any potential's own: a first frame to count from, and the sums
        self._energies: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, dataset: Dataset, prediction: Labels) -> None:
        """Some frames more; labels that are missing are None or NaN."""
        if dataset.forces is not None and prediction.forces is not None:
            self._forces += _products(dataset.forces.ravel(), prediction.forces.ravel())[3:]
        if dataset.energy is None:
            return
        numbers = np.split(dataset.numbers, dataset.atom_ptr[1:-1])
        for k in np.flatnonzero(np.isfinite(dataset.energy)):
            pair = np.array([dataset.energy[k], prediction.energy[k]])
            origin, sums = self._energies.setdefault(np.sort(numbers[k]).tobytes(), (pair, np.zeros(6)))
            sums += _products(*(pair - origin)[:, None])

    def doubts(self) -> list[str]:
        """A line for each label whose sign or unit may be another than the potential's."""
        found = [_told("forces", self._forces, FORCES), _told("energies", self._within(), ENERGIES)]
        return [line for line in found if line]

    def _within(self) -> np.ndarray:
        """Sums of products of the differences from the means of each composition."""
        total = np.zeros(3)
        for _, (count, label, predicted, *products) in self._energies.values():
            means = np.array([label * label, label * predicted, predicted * predicted]) / count
            total += products - means
        return total


def _products(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Number, sums, and sums of products of what is known of two."""
    known = np.isfinite(label) & np.isfinite(predicted)
    x, y = label[known], predicted[known]
    return np.array([len(x), x.sum(), y.sum(), x @ x, x @ y, y @ y])


def _told(what: str, products: np.ndarray, numbers_in: Mapping[str, float]) -> str:
    labels, both, predictions = products.tolist()
    if not (labels > 0 and predictions > 0) or abs(both) < CLOSE * math.sqrt(labels * predictions):
        return ""
    factor = both / predictions
    named = [name for name, value in numbers_in.items() if abs(factor * value - 1) < NEAR]
    if named:
        guess = f"numbers in {named[0]}?"
    elif abs(factor + 1) < NEAR:
        guess = "the other sign?" if what == "energies" else "gradients, the other sign?"
    elif not 1 / ALIKE < factor < ALIKE:
        guess = "another unit, or another sign?" if factor < 0 else "another unit?"
    else:
        return ""
    return f"the {what} of the reference are {factor:.3g} times those predicted, in proportion: {guess}"
