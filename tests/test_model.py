"""The whole potential: against the reference network, against differences, and against physics."""

import numpy as np
import pytest
from ase import Atoms
from checks import check_forces_and_stress, check_loss_gradient
from graphs import neighbours
from potentials import batch, crystal, molecule, over_settings, potential, transformed, with_positions
from tolerances import (
    MODEL,
    SYMMETRY,
    VIOLATION,
    check_close,
    relative_error,
)

from eqpot import Potential
from eqpot.errors import UserError
from eqpot.kernels import reference


def rotation(seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.linalg.det(q)


# ------------------------------------------------------------ against the reference


def reference_energies_and_forces(model: Potential, atoms: Atoms):
    """Energies[n], forces[n, 3] in the order of `atoms`, from NumPy alone, trying all pairs."""
    species = np.searchsorted(model.species, atoms.numbers)
    order = np.argsort(species, kind="stable")
    cell = atoms.cell[:] if atoms.pbc.all() else None
    receivers, senders, edge_vec = neighbours(atoms.positions[order], cell, model.config.cutoff)
    params = {name: np.asarray(w, np.float64) for name, w in model.params.items()}

    def arguments(of_atoms, *edges):
        return model.config, len(model.species), params, of_atoms, *edges, model.mean_neighbours

    whole = arguments(species[order], edge_vec, senders, receivers)
    x, lone = reference.energies(*whole), np.zeros(len(model.species))
    if model.config.isolated_atoms:
        none = np.empty(0, int)
        lone = reference.energies(*arguments(np.arange(len(lone)), np.empty((0, 3)), none, none))
    energies, forces = np.empty(len(atoms)), np.empty((len(atoms), 3))
    energies[order] = model.scale[species[order]] * (x - lone[species[order]])
    forces[order] = reference.forces(*whole, model.scale)
    return energies + model.shift[species], forces


@over_settings
@pytest.mark.parametrize("make", [molecule, crystal], ids=["molecule", "crystal"])
def test_equals_reference(make, settings):
    model, atoms = potential(**settings), make()
    energies, forces = reference_energies_and_forces(model, atoms)
    result = model.evaluate(atoms)
    check_close(result.energies, energies, MODEL["float64"], what="energies")
    check_close(result.energy, energies.sum(), MODEL["float64"], scale=np.abs(energies).sum(), what="energy")
    check_close(result.forces, forces, MODEL["float64"], what="forces")


@over_settings
def test_float32(settings):
    exact, rounded = potential(**settings), potential("float32", **settings)
    rounded.params.flat[:] = exact.params.flat
    for atoms in (molecule(), crystal()):
        a, b = rounded.evaluate(atoms), exact.evaluate(atoms)
        check_close(a.energies, b.energies, MODEL["float32"], what="energies")
        check_close(a.forces, b.forces, MODEL["float32"], what="forces")
        if b.stress is not None:
            check_close(a.stress, b.stress, MODEL["float32"], what="stress")


# ------------------------------------------------------------ symmetry


@over_settings
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rotation(settings, dtype):
    model, q = potential(dtype, **settings), rotation().T
    for atoms in (molecule(), crystal()):
        a, b = model.evaluate(transformed(atoms, q)), model.evaluate(atoms)
        check_close(a.energies, b.energies, SYMMETRY[dtype], what="energies")
        check_close(a.forces, b.forces @ q, SYMMETRY[dtype], what="forces")
        if b.stress is not None:
            check_close(a.stress, q.T @ b.stress @ q, SYMMETRY[dtype], what="stress")


@over_settings
def test_mirror(settings):
    """O(3) and scalars alone cannot tell left from right; SO(3) can, from three blocks on."""
    model, mirror = potential(**settings), np.diag([1.0, 1.0, -1.0])
    atoms = molecule()
    a, b = model.evaluate(transformed(atoms, mirror)), model.evaluate(atoms)
    if settings.get("symmetry") == "so3":
        assert relative_error(a.energies, b.energies) > VIOLATION
        assert relative_error(a.forces, b.forces @ mirror) > VIOLATION
    else:
        check_close(a.energies, b.energies, SYMMETRY["float64"])
        check_close(a.forces, b.forces @ mirror, SYMMETRY["float64"])


@over_settings
def test_translation_permutation_net_force(settings):
    model = potential(**settings)
    for atoms in (molecule(), crystal()):
        plain = model.evaluate(atoms)
        there = model.evaluate(with_positions(atoms, atoms.positions + [0.3, -7.0, 2.0]))
        check_close(there.energies, plain.energies, SYMMETRY["float64"])
        check_close(there.forces, plain.forces, SYMMETRY["float64"])

        order = np.random.default_rng(0).permutation(len(atoms))
        permuted = model.evaluate(atoms[order])
        check_close(permuted.energies, plain.energies[order], SYMMETRY["float64"])
        check_close(permuted.forces, plain.forces[order], SYMMETRY["float64"])

        net = plain.forces.sum(axis=0)
        check_close(net, np.zeros(3), SYMMETRY["float64"], scale=np.abs(plain.forces).max())


# ------------------------------------------------------------ batches, fragments, images


def test_batch_equals_singles():
    model = potential()
    lone = Atoms("C", positions=[[1.0, 2, 3]])
    slab = crystal()
    slab.pbc = [True, True, False]
    frames = [molecule(), crystal(), lone, molecule(4, 8), slab]
    together = model.evaluate(frames)
    assert isinstance(together, list) and len(together) == len(frames)
    for one, atoms in zip(together, frames, strict=True):
        alone = model.evaluate(atoms)
        check_close(one.energy, alone.energy, MODEL["float64"])
        check_close(one.energies, alone.energies, MODEL["float64"])
        check_close(one.forces, alone.forces, MODEL["float64"])
        assert (one.stress is None) == (alone.stress is None) == (not atoms.pbc.all())
        if one.stress is not None:
            check_close(one.stress, alone.stress, MODEL["float64"])


@over_settings
def test_far_fragments_add(settings):
    model = potential(**settings)
    a, b = molecule(), molecule(4, 8)
    b.positions += [100.0, 0, 0]
    both, one, other = model.evaluate(a + b), model.evaluate(a), model.evaluate(b)
    check_close(both.energies, np.concatenate([one.energies, other.energies]), SYMMETRY["float64"])
    check_close(both.forces, np.concatenate([one.forces, other.forces]), SYMMETRY["float64"])


@over_settings
def test_supercell(settings):
    """A cell so small that atoms see their own images, against its repetition."""
    model, cell = potential(**settings), crystal(2, volume=9.0)
    assert min(cell.cell.lengths()) < model.config.cutoff
    one, many = model.evaluate(cell), model.evaluate(cell.repeat((2, 3, 2)))
    check_close(many.energies, np.tile(one.energies, 12), SYMMETRY["float64"])
    check_close(many.forces, np.tile(one.forces, (12, 1)), SYMMETRY["float64"], scale=1.0)
    check_close(many.stress, one.stress, SYMMETRY["float64"])


def test_lattice_translations_of_single_atoms():
    model, atoms = potential(), crystal()
    wandering = atoms.positions.copy()
    wandering[0] += atoms.cell[0] - 2 * atoms.cell[2]
    wandering[3] -= atoms.cell[1]
    a, b = model.evaluate(with_positions(atoms, wandering)), model.evaluate(atoms)
    check_close(a.energies, b.energies, SYMMETRY["float64"])
    check_close(a.forces, b.forces, SYMMETRY["float64"])


# ------------------------------------------------------------ the cutoff


@over_settings
def test_smooth_through_the_cutoff(settings):
    """Energy, force and the force's derivative differ across the cutoff by no more than the way between."""
    model = potential(**settings)

    def at(x):
        """Energy and forces with H at distance cutoff + x from C, within reach of O."""
        positions = [[0, 0, 0], [1.2, 0.3, 0], [model.config.cutoff + x, 0, 0]]
        result = model.evaluate(Atoms("COH", positions=positions))
        return np.array(result.energy), result.forces

    def jumps(x):
        """Of E, F and dF/dx between cutoff - x and cutoff + x."""
        inner, outer = at(-x), at(x)
        stiffness = [(at(y + x / 4)[1] - at(y - x / 4)[1]) / (x / 2) for y in (-x, x)]
        changes = [outer[0] - inner[0], outer[1] - inner[1], stiffness[1] - stiffness[0]]
        return np.array([np.abs(change).max() for change in changes])

    far, near = jumps(1e-3), jumps(1e-5)
    assert np.all(far > 0)
    assert np.all(near <= 0.05 * far), near / far


# ------------------------------------------------------------ derivatives


@over_settings
def test_forces_and_stress(settings):
    for atoms in (molecule(), crystal()):
        check_forces_and_stress(potential(**settings), atoms)


@over_settings
def test_loss_gradient(settings):
    check_loss_gradient(potential(**settings), [molecule(5), crystal(3), Atoms("O", positions=[[0, 0, 0]])])


BIG = dict(features=64, blocks=6, cutoff=5.0, basis_size=8, radial_width=8)


@pytest.mark.slow
def test_forces_and_stress_of_a_crystal_at_full_size():
    check_forces_and_stress(potential(**BIG), crystal(30))


@pytest.mark.slow
def test_loss_gradient_of_a_crystal_at_full_size():
    check_loss_gradient(potential(**BIG), [crystal(30)])


# ------------------------------------------------------------ legal oddities


def test_lone_atoms():
    """No edges at all: an energy per species, no force, zero stress."""
    model = potential()
    one = model.evaluate(Atoms("O", positions=[[0, 0, 0]]))
    far = model.evaluate(Atoms("OO", positions=[[0, 0, 0], [0, 0, 30.0]]))
    check_close(far.energies, np.repeat(one.energies, 2), SYMMETRY["float64"])
    check_close(far.forces, np.zeros((2, 3)), 0.0)
    boxed = model.evaluate(Atoms("O", positions=[[0, 0, 0]], cell=20 * np.eye(3), pbc=True))
    check_close(boxed.energies, one.energies, SYMMETRY["float64"])
    check_close(boxed.stress, np.zeros((3, 3)), 0.0)


def test_repr_says_what_it_is():
    assert repr(Potential.create(["O", "H"], features=8, cutoff=4)) == (
        "<Potential for H O: o3, l_max 1, filters of order 2, node products, 8 features, 2 blocks, "
        "cutoff 4 Å, float32>"
    )
    papers = Potential.create(["O", "H"], features=8, cutoff=4, filter_order=1, node_products=False)
    assert repr(papers) == "<Potential for H O: o3, l_max 1, 8 features, 2 blocks, cutoff 4 Å, float32>"


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("HN", positions=[[0, 0, 0], [1, 0, 0]]), "structure 0: numbers.*H C O.*found N"),
        (Atoms("HO", positions=np.zeros((2, 3))), "structure 0: positions.*same place"),
        (Atoms("HO", positions=[[0, 0, 0], [np.nan, 0, 0]]), "structure 0: positions.*finite"),
        (Atoms("H", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True), "structure 0, cell: .*independent"),
        ("water.xyz", "atoms: expected an ase.Atoms or a list of them, found str"),
        ([Atoms("H"), None], "atoms: .*found NoneType"),
        (1, "atoms: .*found int"),
    ],
)
def test_a_bad_structure_says_what_is_wrong(atoms, message):
    with pytest.raises(UserError, match=message):
        potential().evaluate(atoms)


@pytest.mark.parametrize("nonlinearity", ["gate", "norm"])
def test_stress_alone_brings_forces(nonlinearity):
    """They come from the same walk: no way to compute leaves it out where forces were not asked for."""
    model = potential(nonlinearity=nonlinearity)
    for p in (model, model.cast("float64", "ref")):
        graph = batch(p, crystal(3))
        alone, both = (p.predict(graph, forces=forces, stress=True) for forces in (False, True))
        assert np.array_equal(alone.stress, both.stress) and np.array_equal(alone.forces, both.forces)
