"""ZBL: against numbers worked out by hand, against differences, and as a part of the potential."""

import json
from dataclasses import replace

import h5py
import numba
import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from checks import LossOf, check_forces_and_stress, check_loss_gradient, check_tape
from potentials import batch, crystal, molecule, potential
from tolerances import MODEL, check_close
from toy import MODEL as TOY
from toy import toy_dataset, unsealed

from eqpot import EqpotCalculator, Potential
from eqpot.config import Config
from eqpot.dynamics.check import _dimer
from eqpot.kernels import reference
from eqpot.network.zbl import ZBL
from eqpot.structures.data import concatenate, write_dataset
from eqpot.training.trainer import Trainer

PAIRS = [(1, 1), (1, 8), (6, 6), (6, 8)]
END = {pair: covalent_radii[list(pair)].sum() for pair in PAIRS}


def squeezed() -> list[Atoms]:
    """A molecule, a lone atom, and a crystal whose atoms repel their own images."""
    small = molecule(7)
    small.positions *= 0.7
    return [small, Atoms("O"), crystal(4, volume=2.5)]


def dimers(pair, distances, **settings):
    """Energies [m, 2] and forces [m, 2, 3] of ZBL alone, for atoms at 0 and at distances[m] along x."""
    model = potential(**settings)
    graph = batch(model, *(Atoms(pair, [[0, 0, 0], [r, 0, 0]]) for r in distances))
    zbl = ZBL(model.species, model.config.cutoff, model.config.envelope_p)
    energies, forces, _ = zbl.repulsion(graph)
    found = np.empty_like(energies), np.empty_like(forces)
    found[0][graph.order], found[1][graph.order] = energies, forces
    return found[0].reshape(-1, 2), found[1].reshape(-1, 2, 3)


# ------------------------------------------------------------ the pair


@pytest.mark.parametrize(
    ("z", "other_z", "r", "energy"),
    [(1, 1, 0.5, 5.913673329), (6, 8, 0.7, 59.275275387), (79, 14, 1.2, 68.883157731)],
)
def test_reference_against_numbers_worked_out_by_hand(z, other_z, r, energy):
    """From CODATA's constants of 2022 in 30 digits; an end so far away leaves no trace of the envelope."""
    far = np.array([1e6])
    found = reference.zbl(np.array([r]), np.array([z]), np.array([other_z]), far, 6)
    assert found == pytest.approx(energy, rel=2e-8)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("settings", [{}, {"envelope_p": 3}, {"cutoff": 0.6}], ids=str)
def test_kernel_equals_reference(pair, settings):
    """Half of the energy for each atom; the forces push them apart."""
    r = np.linspace(0.1, 1.6, 31)
    energies, forces = dimers(pair, r, **settings)
    end = min(END[pair], settings.get("cutoff", np.inf))
    z = (np.full(r.shape, number) for number in pair)
    exact = reference.zbl(r + 1e-30j, *z, np.full(r.shape, end), settings.get("envelope_p", 6))
    half, slope = 0.5 * exact.real, exact.imag / 1e-30
    # ASE's constants are those of 2014, the reference's of 2022.
    assert energies == pytest.approx(np.stack([half, half], axis=1), rel=2e-8, abs=1e-10)
    assert forces[:, 0, 0] == pytest.approx(slope, rel=2e-8, abs=1e-10)
    assert np.array_equal(forces[:, 1], -forces[:, 0]) and not forces[:, :, 1:].any()
    assert (forces[r < end, 0, 0] < 0).all() and not forces[r >= end].any() and not energies[r >= end].any()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("cutoff", [4.0, 0.6])
def test_smooth_at_its_end(pair, cutoff):
    """The energy vanishes like the cube of the distance to the end, the force like the square."""
    end = min(END[pair], cutoff)
    energies, forces = dimers(pair, end * (1 - np.array([1e-3, 1e-4, 0, -1e-4])), cutoff=cutoff)
    energies, forces = energies[:, 0], -forces[:, 0, 0]
    assert energies[0] / energies[1] == pytest.approx(1e3, rel=0.02)
    assert forces[0] / forces[1] == pytest.approx(1e2, rel=0.02)
    assert not energies[2:].any() and not forces[2:].any()


# ------------------------------------------------------------ in the potential


@pytest.mark.parametrize("atoms", squeezed()[::2], ids=["molecule", "crystal"])
def test_forces_and_stress_are_slopes(atoms):
    with_zbl, without = potential(zbl=True), potential()
    a, b = with_zbl.evaluate(atoms), without.evaluate(atoms)
    assert np.abs(a.forces - b.forces).max() > 0.1 * np.abs(b.forces).max(), "enough to be seen"
    check_forces_and_stress(with_zbl, atoms)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_tape(dtype):
    model = potential(dtype, zbl=True)
    check_tape(model, batch(model, *squeezed()))


def test_loss_gradient():
    check_loss_gradient(potential(zbl=True), squeezed())


def test_fits_the_labels_less_zbl():
    """Loss and gradient are those of the network alone, compared with what ZBL leaves of the labels."""
    whole, network = LossOf(potential(zbl=True), squeezed()), LossOf(potential(), squeezed())
    graph = whole.batch
    energies, forces, _ = whole.model.zbl.repulsion(graph)
    stress = [loss.model.predict(graph, stress=True).stress for loss in (whole, network)]
    network.labels.energy -= np.bincount(graph.frame, energies)
    network.labels.forces -= forces
    network.labels.stress -= stress[0] - stress[1]
    check_close(whole.gradient(), network.gradient(), 10 * MODEL["float64"])
    assert whole.value() == pytest.approx(network.value(), rel=10 * MODEL["float64"])


def test_batch_equals_singles():
    model, frames = potential(zbl=True), squeezed()
    for one, atoms in zip(model.evaluate(frames), frames, strict=True):
        alone = model.evaluate(atoms)
        check_close(one.energies, alone.energies, MODEL["float64"])
        check_close(one.forces, alone.forces, MODEL["float64"], scale=np.abs(alone.forces).max() or 1)
        assert (one.stress is None) == (alone.stress is None)
        if one.stress is not None:
            check_close(one.stress, alone.stress, MODEL["float64"])


def test_atoms_apart_do_not_notice():
    """To the last bit what a potential without ZBL gives."""
    atoms = crystal(volume=12.0)
    atoms.numbers[:] = 1
    a, b = potential(zbl=True).evaluate(atoms), potential().evaluate(atoms)
    assert np.abs(b.forces).max() > 0
    for name in ("energies", "forces", "stress"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_same_bits_for_any_skin():
    atoms, random = squeezed()[2], np.random.default_rng(0)
    model = potential(zbl=True)
    calculators = [EqpotCalculator(model, skin) for skin in (0.0, 0.3, 2.0)]
    for _ in range(3):
        atoms.positions += random.normal(scale=0.03, size=(len(atoms), 3))
        expected = model.evaluate(atoms)
        for calculator in calculators:
            assert np.array_equal(calculator.get_forces(atoms), expected.forces)
            assert calculator.get_potential_energy(atoms) == expected.energy


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread has nothing to agree with")
def test_same_bits_for_any_number_of_threads():
    model = potential(zbl=True)
    graph = batch(model, crystal(36, volume=2.5) * (2, 2, 1))
    assert len(graph.species) > 100, "enough for two threads"
    found = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        found.append(model.zbl.repulsion(graph))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert all(a.any() and np.array_equal(a, b) for a, b in zip(*found, strict=True))


# ------------------------------------------------------------ files, fits, checks


def test_files(tmp_path):
    """A model keeps its ZBL; one from before the setting existed has none."""
    path, atoms = tmp_path / "model.h5", squeezed()[0]
    for on in (True, False):
        model = potential(zbl=on)
        model.save(path)
        again = Potential.load(path)
        assert again.config.zbl is on and np.array_equal(
            again.evaluate(atoms).forces, model.evaluate(atoms).forces
        )
    with h5py.File(unsealed(path), "r+") as file:
        config = json.loads(file.attrs["config"])
        del config["zbl"]
        file.attrs["config"] = json.dumps(config)
    assert Potential.load(path).config == model.config


@pytest.mark.parametrize("energies", [True, False])
def test_shift_and_scale_come_from_what_zbl_leaves(energies, tmp_path):
    """Labels are those of free atoms and ZBL, and a force of 0.25 eV/Å in each component."""
    data = concatenate([toy_dataset(4, k, symbols) for k, symbols in enumerate(("H2O2", "HO3"))])
    data = replace(data, positions=0.5 * data.positions, cell=0.5 * data.cell, stress=None)
    model = Potential.create(["H", "O"], dtype="float64", zbl=True, **TOY)
    model.scale[:], model.shift[:] = 0, [-13.5, -430.25]
    results = model.evaluate([data.atoms(k) for k in range(len(data))])
    data.energy[:] = [result.energy for result in results]
    data.forces[:] = np.concatenate([result.forces for result in results])
    assert np.abs(data.forces).max() > 1
    data.forces += 0.25
    data.energy[0] = np.nan
    write_dataset(tmp_path / "data.h5", data if energies else replace(data, energy=None))
    config = Config.from_dict({"model": {**TOY, "zbl": True}, "train": {"n_valid": 2, "dtype": "float64"}})
    fitted = Trainer.start(config, tmp_path / "data.h5", tmp_path / "run").potential
    assert fitted.scale == pytest.approx(0.25, rel=1e-10)
    assert fitted.shift == pytest.approx([-13.5, -430.25] if energies else [0, 0], rel=1e-10)


def test_squeezed_pairs_repel():
    """An untrained potential lets some pair fall together; with ZBL none."""

    def fails(model):
        return [pair for pair in PAIRS for finding in _dimer(model, pair) if not finding.passed]

    assert fails(potential()) and not fails(potential(zbl=True))
