"""The ASE calculator: equal to `Potential.evaluate` to the last bit, whatever ASE does between two calls."""

import copy
import pickle
from dataclasses import fields

import numba
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.vibrations import Vibrations
from potentials import cluster_of_nine as molecule
from potentials import narrow_crystal as crystal
from potentials import slab
from potentials import two_blocks as potential
from tolerances import DIFFERENCE, check_close, derivative

from eqpot import EqpotCalculator, Potential
from eqpot.errors import UserError
from eqpot.structures.graph import Batch, VerletList, collate, frame_graph

over_dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


HOT = 2000  # K


def heat(atoms: Atoms, rng: np.random.Generator) -> None:
    """Velocities of Maxwell and Boltzmann."""
    width = np.sqrt(HOT * units.kB / atoms.get_masses())
    atoms.set_velocities(rng.normal(size=(len(atoms), 3)) * width[:, None])


over_structures = pytest.mark.parametrize("make", [molecule, crystal, slab])


def check_same(calculator: EqpotCalculator, atoms: Atoms) -> None:
    """To the last bit what a neighbour list found afresh gives."""
    expected = calculator.potentials[0].evaluate(atoms)
    assert np.isfinite(expected.forces).all() and np.abs(expected.forces).max() > 0
    assert calculator.get_potential_energy(atoms) == expected.energy
    assert np.array_equal(calculator.get_forces(atoms), expected.forces)
    assert np.array_equal(calculator.get_potential_energies(atoms), expected.energies)
    if atoms.pbc.all():
        s = expected.stress
        voigt = [s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]]
        assert np.array_equal(calculator.get_stress(atoms), voigt)


def builds(calculator: EqpotCalculator) -> int:
    (neighbours,) = calculator.lists.values()
    return neighbours.builds


def walks(monkeypatch) -> list[tuple[bool, bool]]:
    """Filled with (forces, stress) of every prediction from now on."""
    seen, predict = [], Potential.predict

    def counted(self, batch, forces=True, stress=False):
        seen.append((forces, stress))
        return predict(self, batch, forces=forces, stress=stress)

    monkeypatch.setattr(Potential, "predict", counted)
    return seen


# ------------------------------------------------------------ results


@over_dtypes
@over_structures
def test_equals_evaluate(make, dtype):
    calculator = EqpotCalculator(potential(dtype))
    check_same(calculator, make())
    assert calculator.get_property("free_energy", make()) == calculator.get_potential_energy(make())


def test_stress_is_the_slope_of_the_energy_under_strain():
    """Here for the order and sign that ASE wants; through the calculator, so the cell changes too."""
    atoms = crystal()
    atoms.calc = EqpotCalculator(potential())
    stress, volume, cell = atoms.get_stress(), atoms.get_volume(), atoms.cell[:]
    slopes = []
    for a, b in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5

        def energy(h, strain=strain):
            strained = atoms.copy()
            strained.set_cell(cell @ (np.eye(3) + h * strain), scale_atoms=True)
            return atoms.calc.get_potential_energy(strained)

        slopes.append(derivative(energy, 1e-3) / volume)
    check_close(stress, slopes, DIFFERENCE)


def test_only_what_is_asked_for(monkeypatch):
    seen = walks(monkeypatch)
    atoms = crystal()
    atoms.calc = EqpotCalculator(potential())
    atoms.get_potential_energy()
    atoms.get_potential_energies()
    assert seen == [(False, False)]
    atoms.get_forces()
    atoms.get_potential_energy()
    assert seen[1:] == [(True, False)]
    atoms.get_stress()
    atoms.get_forces()
    assert seen[2:] == [(True, True)]
    atoms.positions[0] += 0.01
    atoms.get_forces()
    atoms.get_stress()
    atoms.get_potential_energy()
    assert seen[3:] == [(True, True)], "forces and stress of a step should come from one walk"
    atoms.set_initial_charges(np.ones(len(atoms)))
    atoms.get_forces()
    assert len(seen) == 4, "charges are nothing to the potential"


@over_dtypes
def test_committee(tmp_path, dtype):
    """Of a path and two objects, with their own cutoffs and elements."""
    members = [
        potential(dtype),
        potential(dtype, cutoff=3.0, seed=4),
        potential(dtype, species=("H", "C", "N", "O"), seed=5),
    ]
    members[0].save(tmp_path / "model.h5")
    committee = EqpotCalculator([tmp_path / "model.h5", *members[1:]])
    one = EqpotCalculator(str(tmp_path / "model.h5"))
    for atoms in (crystal(), molecule()):
        check_same(one, atoms)
        single = [member.evaluate(atoms) for member in members]
        energy = [s.energy for s in single]
        forces = np.array([s.forces for s in single])
        atoms.calc = committee
        assert atoms.get_potential_energy() == np.mean(energy)
        assert set(committee.results) == {"energy", "free_energy", "energies", "energy_std"}
        assert np.array_equal(atoms.get_forces(), forces.mean(axis=0))
        assert np.array_equal(committee.results["forces_std"], forces.std(axis=0))
        assert committee.results["energy_std"] == np.std(energy) > 0
        assert np.array_equal(atoms.get_potential_energies(), np.mean([s.energies for s in single], axis=0))
        if atoms.pbc.all():
            check_close(atoms.get_stress(voigt=False), np.mean([s.stress for s in single], axis=0), 1e-14)
    alone = EqpotCalculator([members[0]])  # no spread of 0 where there is nothing to compare
    atoms.calc = alone
    assert np.array_equal(atoms.get_forces(), forces[0]) and "forces_std" not in alone.results
    assert "forces_std" not in one.results


# ------------------------------------------------------------ neighbours from call to call


@over_structures
@pytest.mark.parametrize("skin", [0.0, 0.5, 2.0])
def test_batch_is_that_of_a_fresh_list(make, skin):
    atoms, species = make(), (1, 6, 8)
    neighbours = VerletList(species, 3.5, skin)
    rng = np.random.default_rng(7)
    for _ in range(12):
        structure = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
        kept = neighbours.batch(*structure)
        fresh = collate([frame_graph(*structure, species, 3.5)], len(species))
        arrays = {field.name for field in fields(Batch)} - {"backend", "walk"}  # small ones have no walk
        for name in arrays:
            a, b = getattr(kept, name), getattr(fresh, name)
            assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    assert neighbours.builds == 12 if skin == 0 else 1 <= neighbours.builds < 12


@over_structures
def test_edges_are_in_order_and_have_their_reverse(make):
    atoms = make()
    atoms.positions[::2] += 3 * atoms.cell[1] - 2 * atoms.cell[0]
    graph = frame_graph(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc, (1, 6, 8), 3.5)
    pairs = list(zip(graph.receivers.tolist(), graph.senders.tolist(), strict=True))
    assert pairs == sorted(pairs) and len(pairs) > len(atoms)
    assert np.linalg.norm(graph.edge_vec, axis=1).max() < 3.5
    edges = {(i, j, *vec) for (i, j), vec in zip(pairs, graph.edge_vec.tolist(), strict=True)}
    assert len(edges) == len(pairs)
    assert edges == {(j, i, -x, -y, -z) for i, j, x, y, z in edges}


@over_dtypes
@over_structures
def test_hot_trajectory(make, dtype):
    """Nothing is wrapped, so that atoms leave the cell."""
    atoms = make()
    atoms.calc = EqpotCalculator(potential(dtype), skin=0.5)
    rng = np.random.default_rng(11)
    heat(atoms, rng)
    dynamics = Langevin(
        atoms, 1.0 * units.fs, temperature_K=HOT, friction=0.01 / units.fs, fixcm=False, rng=rng
    )
    inside = np.floor(atoms.get_scaled_positions(wrap=False)[:, atoms.pbc])
    for _ in dynamics.irun(60):
        check_same(atoms.calc, atoms)
    assert 3 <= builds(atoms.calc) <= 30
    assert not atoms.pbc.any() or np.any(
        inside != np.floor(atoms.get_scaled_positions(wrap=False)[:, atoms.pbc])
    )
    atoms.wrap()
    check_same(atoms.calc, atoms)


@over_structures
def test_trajectories_with_and_without_skin_are_the_same(make):
    ends = []
    for skin in (0.0, 0.3, 1.0):
        atoms = make()
        atoms.calc = EqpotCalculator(potential(), skin=skin)
        heat(atoms, np.random.default_rng(1))
        VelocityVerlet(atoms, 1.0 * units.fs).run(40)
        ends.append((builds(atoms.calc), atoms.positions))
    assert [count for count, _ in ends] == sorted((count for count, _ in ends), reverse=True)
    assert ends[0][0] == 41 and ends[2][0] > 1
    assert np.array_equal(ends[0][1], ends[1][1]) and np.array_equal(ends[0][1], ends[2][1])


def test_large_structures_are_walked_from_neighbour_to_neighbour(monkeypatch):
    monkeypatch.setattr("eqpot.structures.graph.LARGE", 5)
    calculator, atoms = EqpotCalculator(potential("float32")), crystal()
    for seed in range(4):
        atoms.rattle(0.05, seed=seed)
        check_same(calculator, atoms)


def test_a_change_of_structure_is_seen():
    calculator, atoms = EqpotCalculator(potential()), crystal()

    def check(count):
        check_same(calculator, atoms)
        assert builds(calculator) == count

    check(1)
    atoms.positions[2] += [0.2, 0, 0]  # of the 0.25 that half the skin allows
    check(1)
    atoms.positions[2] += [0.1, 0, 0]
    check(2)
    atoms.set_cell(atoms.cell[:] * 1.001, scale_atoms=False)
    check(3)
    atoms.numbers[0] = 8
    check(4)
    atoms.pbc = [True, False, True]
    check(5)
    del atoms[3]
    check(6)
    atoms += Atoms("C", positions=[[0.5, 0.5, 8.0]])
    check(7)
    atoms.positions[1] += 2 * atoms.cell[0]
    check(8)
    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]])
    check(9)


def test_no_edges():
    calculator = EqpotCalculator(potential())
    for atoms in (Atoms("O"), Atoms("OO", positions=[[0, 0, 0], [0, 0, 30.0]]), Atoms()):
        expected = calculator.potentials[0].evaluate(atoms)
        assert calculator.get_potential_energy(atoms) == expected.energy
        assert np.array_equal(calculator.get_forces(atoms), np.zeros((len(atoms), 3)))


# ------------------------------------------------------------ copies


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"]
)
def test_copies(duplicate):
    first, atoms = EqpotCalculator(potential()), crystal()
    check_same(first, atoms)
    second = duplicate(first)
    assert second.potentials[0] is not first.potentials[0]
    assert second.get_potential_energy(atoms) == first.get_potential_energy(atoms)
    atoms.positions[0] += 0.01
    check_same(second, atoms)
    check_same(first, atoms)
    before = first.get_potential_energy(atoms)
    second.potentials[0].params.flat[:] *= 1.1  # copied weights are seen, and are the copy's own
    second.reset()
    check_same(second, atoms)
    first.reset()
    assert first.get_potential_energy(atoms) == before != second.get_potential_energy(atoms)


# ------------------------------------------------------------ ASE's own machinery


def test_optimizers():
    atoms = molecule()
    atoms.calc = EqpotCalculator(potential())
    start = atoms.get_potential_energy()
    BFGS(atoms, logfile=None, maxstep=0.05).run(fmax=0, steps=8)
    assert atoms.get_potential_energy() < start
    check_same(atoms.calc, atoms)


def test_cell_filter(monkeypatch):
    atoms = crystal()
    atoms.calc = EqpotCalculator(potential())
    start, volume = atoms.get_potential_energy(), atoms.get_volume()
    seen = walks(monkeypatch)
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0, steps=6)
    assert atoms.get_potential_energy() < start
    assert abs(atoms.get_volume() / volume - 1) > 1e-4
    assert seen.count((True, True)) == 7 and len(seen) <= 8, "one walk a step, two at the first"
    check_same(atoms.calc, atoms)


def test_vibrations(tmp_path, monkeypatch):
    atoms = molecule()
    atoms.calc = EqpotCalculator(potential())
    vibrations = Vibrations(atoms, indices=[0, 3], name=str(tmp_path / "vibrations"), delta=1e-3)
    vibrations.run()
    assert builds(atoms.calc) == 1
    hessian = vibrations.get_vibrations().get_hessian_2d()

    def forces(h):
        moved = atoms.copy()
        moved.positions[3, 1] += h
        return -atoms.calc.potentials[0].evaluate(moved).forces[[0, 3]].ravel()

    check_close(hessian[4], derivative(forces, 1e-3), 1e-4, scale=np.abs(hessian).max())
    assert np.isfinite(vibrations.get_energies()).all()


def test_elastic_band():
    ends = molecule(), molecule()
    ends[1].positions[1] += [0.3, -0.2, 0.4]
    images = [ends[0], *(ends[0].copy() for _ in range(3)), ends[1]]
    calculator = EqpotCalculator(potential())
    for image in images:
        image.calc = copy.deepcopy(calculator)
    band = NEB(images, method="improvedtangent")
    band.interpolate()
    band.get_forces()
    start = band.get_residual()
    FIRE(band, logfile=None).run(fmax=0, steps=50)  # the first ones gather speed
    assert band.get_residual() < start / 2
    for image in images:
        check_same(image.calc, image)


def test_one_calculator_for_a_whole_band():
    images = [molecule() for _ in range(3)]
    for k, image in enumerate(images):
        image.positions[1] += [0.4 * k, 0, 0]
    calculator = EqpotCalculator(potential())
    for _ in range(2):
        for image in images:
            check_same(calculator, image)


def test_trajectory_file(tmp_path):
    """What ASE writes beside the atoms; a committee's spread is unknown to it and does not disturb."""
    atoms = crystal()
    atoms.calc = EqpotCalculator([potential(), potential(seed=4)])
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    with Trajectory(tmp_path / "crystal.traj", "w", atoms) as file:
        file.write()
    with Trajectory(tmp_path / "crystal.traj") as file:
        read = file[0]
    assert read.get_potential_energy() == energy
    assert np.array_equal(read.get_forces(), forces) and np.array_equal(read.get_stress(), stress)


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("HN", positions=[[0, 0, 0], [1, 0, 0]]), "numbers: .*H C O.*found N$"),
        (Atoms("HO", positions=np.zeros((2, 3))), "positions: .*same place$"),
        (Atoms("HO", positions=[[0, 0, 0], [np.nan, 0, 0]]), "positions: .*NaN or infinity$"),
        (Atoms("H", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True), "cell: expected independent vectors"),
    ],
)
def test_a_bad_structure_says_what_is_wrong(atoms, message):
    calculator = EqpotCalculator(potential())
    check_same(calculator, crystal())
    for _ in range(2):
        with pytest.raises(UserError, match=f"^structure[:,] {message}"):
            calculator.get_forces(atoms)
    with pytest.raises(UserError):
        calculator.calculate(atoms)
    assert not calculator.results
    check_same(calculator, crystal())


def test_positions_that_turn_bad_are_seen():
    atoms = crystal()
    atoms.calc = EqpotCalculator(potential())
    atoms.get_forces()
    atoms.positions[1, 2] = np.nan
    with pytest.raises(UserError, match="finite"):
        atoms.get_forces()
    close = Atoms("HO", positions=[[0, 0, 0], [0, 0, 0.1]], calculator=atoms.calc)
    close.get_forces()
    close.positions[1] = 0
    with pytest.raises(UserError, match="same place"):
        close.get_forces()


@pytest.mark.parametrize("make", [molecule, slab])
def test_stress_needs_three_periodic_directions(make):
    atoms = make()
    atoms.calc = EqpotCalculator(potential())
    energy = atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="periodic in all three directions"):
        atoms.get_stress()
    assert atoms.get_potential_energy() == energy
    check_same(atoms.calc, atoms)


def test_threads_are_those_asked_for(monkeypatch):
    seen = []
    predict = Potential.predict
    monkeypatch.setattr(
        Potential, "predict", lambda *a, **k: seen.append(numba.get_num_threads()) or predict(*a, **k)
    )
    before, found = numba.get_num_threads(), []
    for threads in (1, None):
        atoms = molecule()
        atoms.calc = EqpotCalculator(potential(), threads=threads)
        found.append(atoms.get_forces())
    assert seen == [1, before] and numba.get_num_threads() == before
    assert np.array_equal(*found)


@pytest.mark.parametrize("threads", [0, 10_000, 1.5, "2", True])
def test_threads_that_there_are_not(threads):
    with pytest.raises(UserError, match=f"threads: expected 1 to .*found {threads!r}"):
        EqpotCalculator(potential(), threads=threads)


@pytest.mark.parametrize(
    ("model", "skin", "message"),
    [
        ([], 0.5, "model: expected at least one"),
        ("nowhere.h5", 0.5, "nowhere.h5: expected a model file"),
        (potential(), -0.1, "skin: .*found -0.1"),
        (potential(), np.nan, "skin: .*found nan"),
    ],
)
def test_a_bad_argument_says_what_is_wrong(model, skin, message):
    with pytest.raises(UserError, match=message):
        EqpotCalculator(model, skin=skin)
