"""Labels of another sign or unit are told by their proportion to the predictions."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units

from eqpot.structures.data import Dataset
from eqpot.structures.frames import Labels
from eqpot.training.proportions import Proportions

FRAMES, ATOMS = 40, 4


def told(forces: float, energies: float, noise: float = 0.1, parts: int = 1) -> list[str]:
    """Doubts about labels that are so many times the predictions of two compositions, but for some noise."""
    random = np.random.default_rng(0)
    numbers = np.where(np.arange(FRAMES)[:, None] % 2, [1, 1, 6, 8], [1, 6, 6, 8]).astype(np.uint8)
    constant = np.where(np.arange(FRAMES) % 2, -3000.0, -5000.0)  # of the labels alone
    f, e = random.normal(size=(FRAMES, ATOMS, 3)), random.normal(size=FRAMES)
    label_f = forces * (f + noise * random.normal(size=f.shape))
    label_e = constant + energies * (e + noise * random.normal(size=e.shape))
    label_f[3], label_e[5] = np.nan, np.nan
    found = Proportions()
    for some in np.array_split(np.arange(FRAMES), parts):
        dataset = Dataset(
            atom_ptr=np.arange(len(some) + 1) * ATOMS,
            numbers=numbers[some].ravel(),
            positions=np.zeros((len(some) * ATOMS, 3)),
            cell=np.zeros((len(some), 3, 3)),
            pbc=np.zeros((len(some), 3), bool),
            energy=label_e[some],
            forces=label_f[some].reshape(-1, 3),
        )
        found.add(dataset, Labels(e[some], f[some].reshape(-1, 3), None))
    return found.doubts()


def test_nothing_is_told_of_labels_that_agree_or_say_nothing():
    assert told(1, 1) == told(1.4, 0.7) == told(1, 1, noise=1) == told(-1, 30, noise=3) == []


@pytest.mark.parametrize(
    ("factor", "guess"),
    [
        (-1, "gradients, the other sign?"),
        (1 / units.Hartree, "numbers in Hartree/Ang?"),
        (units.Bohr / units.Hartree, "numbers in Hartree/Bohr?"),
        (units.Bohr, "numbers in eV/Bohr?"),
        (units.mol / units.kcal, "numbers in kcal/mol/Ang?"),
        (7, "another unit?"),
        (-7, "another unit, or another sign?"),
    ],
)
@pytest.mark.parametrize("parts", [1, 7])
def test_forces(factor: float, guess: str, parts: int):
    (line,) = told(factor, 1, parts=parts)
    assert line.startswith("the forces of the reference are ") and line.endswith(f"in proportion: {guess}")


@pytest.mark.parametrize(
    ("factor", "guess"),
    [(-1, "the other sign?"), (1 / units.Hartree, "numbers in Hartree?"), (1000, "numbers in meV?")],
)
def test_energies(factor: float, guess: str):
    """Whatever the constants of compositions are."""
    (line,) = told(1, factor, parts=3)
    assert line.startswith("the energies of the reference are ") and line.endswith(f"in proportion: {guess}")
