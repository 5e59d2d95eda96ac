"""Predicted deviation against true error, on frames drawn at random from the dynamics before any model was
trained on them.

    error ~ factor x deviation          root mean squares over the components of a frame's forces

The factor is the root mean square of the errors over that of the deviations.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eqpot.errors import UserError
from eqpot.files import replacing
from eqpot.learning.forecast import Forecast
from eqpot.structures.data import Dataset

COLUMNS = ("components", "deviation", "error", "energy_error_per_atom")
PARTS = 4  # of the frames by their deviation, in the table
LEAST = 24  # frames that a factor is fitted to, where there are so many


@dataclass(frozen=True)
class Measured:
    """Frames that were tested, [frames] each: numbers of force components; root mean squares over these of
    the deviation and of the error of the committee's mean (eV/Å); error of the mean energy (eV/atom)."""

    components: np.ndarray
    deviation: np.ndarray
    error: np.ndarray
    energy_error_per_atom: np.ndarray

    @classmethod
    def of(cls, data: Dataset, found: Forecast) -> "Measured":
        """Of labelled frames and what was predicted for them."""
        start, sizes = data.atom_ptr[:-1], data.sizes
        squares = (found.forces - data.forces) ** 2
        error = np.sqrt(np.add.reduceat(squares.mean(axis=1), start) / sizes)
        deviation = np.sqrt(np.add.reduceat(found.deviation**2, start) / sizes)
        return cls(3 * sizes, deviation, error, (found.energy - data.energy) / sizes)

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """UserError at a file that is not what `write` wrote."""
        try:
            with open(path, newline="") as file:
                head, *rows = csv.reader(file)
            columns = np.array(rows, float).reshape(len(rows), len(COLUMNS)).T
            if tuple(head) != COLUMNS or not np.isfinite(columns).all():
                raise ValueError("other columns")
        except (OSError, ValueError, csv.Error) as e:
            raise UserError(f"{path}: expected columns {', '.join(COLUMNS)}, found others: {e}") from e
        return cls(*columns)

    @classmethod
    def joined(cls, parts: Iterable["Measured"]) -> "Measured":
        """All frames of several."""
        parts = list(parts)
        return cls(*(np.concatenate([[], *(getattr(p, name) for p in parts)]) for name in COLUMNS))

    def write(self, path: Path) -> None:
        """A row for each frame."""
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(zip(*(getattr(self, name).tolist() for name in COLUMNS), strict=True))

    def __len__(self) -> int:
        return len(self.error)

    def take(self, chosen: np.ndarray | slice) -> "Measured":
        """Some of the frames."""
        return Measured(*(getattr(self, name)[chosen] for name in COLUMNS))

    def rms(self, name: str) -> float:
        """Of `error` or `deviation` over all force components, eV/Å; NaN without any."""
        if not len(self):
            return float("nan")
        return float(np.sqrt(np.average(getattr(self, name) ** 2, weights=self.components)))

    @property
    def energy_rms(self) -> float:
        """Of the energies' errors, eV/atom; NaN without any."""
        return float(np.sqrt(np.mean(self.energy_error_per_atom**2))) if len(self) else float("nan")

    @property
    def factor(self) -> float:
        """By which deviations are to be multiplied; 1 where there are none."""
        deviation = self.rms("deviation")
        return self.rms("error") / deviation if deviation > 0 else 1.0


def latest(parts: Sequence[Measured]) -> Measured:
    """The last rounds, as many as it takes to have LEAST frames."""
    found: list[Measured] = []
    for part in reversed(parts):
        if sum(map(len, found)) >= LEAST:
            break
        found.append(part)
    return Measured.joined(found)


def scaled_by_the_others(tested: Measured) -> Measured:
    """Each frame's deviation multiplied by the factor of all the others."""

    def others(name: str) -> np.ndarray:
        squares = tested.components * getattr(tested, name) ** 2
        return squares.sum() - squares

    deviation = others("deviation")
    there = deviation > 0
    factor = np.ones(len(tested))
    factor[there] = np.sqrt(others("error")[there] / deviation[there])
    return replace(tested, deviation=factor * tested.deviation)


def by_deviation(tested: Measured, factor: float) -> list[tuple[int, float, float]]:
    """(frames, RMS of the deviation times the factor, RMS error), eV/Å, of each quarter of the frames, those
    with small deviations first."""
    order = np.argsort(tested.deviation, kind="stable")
    quarters = [tested.take(chosen) for chosen in np.array_split(order, min(PARTS, len(tested)) or 1)]
    return [(len(q), factor * q.rms("deviation"), q.rms("error")) for q in quarters if len(q)]
