"""Relaxation: what can be worked out with ASE's EMT."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from potentials import Rounded

from eqpot.dynamics.relax import OPTIMIZERS, Lost, Step, advice, relax
from eqpot.errors import UserError
from eqpot.potential import Potential


def copper():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_shaken_atoms_come_back(optimizer):
    perfect, atoms, seen = bulk("Cu", cubic=True) * (2, 2, 2), copper(), []
    assert relax(atoms, fmax=1e-3, optimizer=optimizer, report=seen.append)
    moved = atoms.positions - perfect.positions
    assert np.abs(moved - moved.mean(axis=0)).max() < 1e-3
    assert [s.number for s in seen] == list(range(len(seen)))
    assert seen[-1].force <= 1e-3 < seen[0].force and seen[-1].energy < seen[0].energy
    assert seen[-1].energy == atoms.get_potential_energy() and seen[-1].stress is None
    assert np.array_equal(atoms.cell[:], perfect.cell[:])


@pytest.mark.slow
def test_a_cell_comes_to_zero_stress():
    """From a compressed and sheared cell to the fcc lattice that has the lowest energy."""
    atoms, seen = copper(), []
    atoms.set_cell(atoms.cell[:] @ (0.97 * np.eye(3) + 0.02 * np.eye(3, k=1)), scale_atoms=True)
    assert relax(atoms, fmax=1e-3, cell=True, report=seen.append)
    assert seen[-1].stress < 1e-4 < seen[0].stress
    lattice = np.linspace(3.55, 3.63, 81)
    scanned = []
    for a in lattice:
        one = bulk("Cu", a=a)
        one.calc = EMT()
        scanned.append(one.get_potential_energy())
    best = lattice[np.argmin(scanned)]
    assert abs(seen[-1].volume / len(atoms) - best**3 / 4) < 0.02
    assert abs(seen[-1].energy / len(atoms) - min(scanned)) < 1e-4


def test_below_the_rounding_the_best_step_is_kept(recwarn):
    """LBFGS divides by the change of forces, which is zero there."""
    atoms, seen = copper(), []
    atoms.calc = Rounded()
    with pytest.raises(Lost, match="lost its way after step") as error:
        relax(atoms, fmax=1e-9, report=seen.append)
    step = error.value.step
    assert step.force == min(s.force for s in seen) < 1e-3
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() == step.force
    assert atoms.get_potential_energy() == pytest.approx(step.energy, rel=1e-12) and not recwarn.list


def test_a_cell_comes_back_to_the_best_step(monkeypatch):
    atoms, seen, calculate = copper(), [], EMT.calculate

    def broken(self, *arguments):
        calculate(self, *arguments)
        if len(seen) == 4:
            self.results["energy"] = np.nan

    monkeypatch.setattr(EMT, "calculate", broken)
    with pytest.raises(Lost, match="step 4: expected finite energy") as error:
        relax(atoms, fmax=1e-3, cell=True, report=seen.append)
    assert len(seen) == 4 and error.value.step in seen[1:]
    assert atoms.get_volume() == error.value.step.volume != seen[0].volume


@pytest.mark.parametrize(
    ("forces", "words"),
    [
        ([2e9, 97.0], "no model knows such forces: look how close atoms are, O-O 0.3 Å"),
        ([2e9], "no model knows such forces: look how close atoms are, O-O 0.3 Å"),
        ([1.0, 1e-6], "that is the rounding of float32: give a larger --fmax"),
        ([0.1] + 100 * [0.5], "0.1 eV/Å at step 0 was the least: more steps of this kind do not help"),
        ([5.0] * 3 + [1.0], "go on from r.xyz with more --steps"),
    ],
)
def test_advice(forces, words):
    model = Potential.create(["O"], features=2, blocks=1)
    atoms = Atoms("O3", [[0, 0, 0], [0.3, 0, 0], [1, 0, 0]])
    steps = [Step(k, 0.0, force, None, None) for k, force in enumerate(forces)]
    assert advice(steps, model, atoms, "r.xyz").startswith(words)


def test_too_few_steps_are_told():
    assert not relax(copper(), fmax=1e-6, steps=2)


def test_what_is_not_finite_stops_it(monkeypatch):
    atoms = copper()
    monkeypatch.setattr(atoms, "get_forces", lambda **_: np.full((len(atoms), 3), np.nan))
    with pytest.raises(UserError, match="step 0: expected finite energy and forces"):
        relax(atoms)
