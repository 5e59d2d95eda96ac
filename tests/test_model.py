"""The whole potential: against the reference network, against differences, and against physics."""

import numpy as np
import pytest
from ase import Atoms
from graphs import cluster, neighbours
from tolerances import (
    DIFFERENCE,
    LOSS_GRADIENT,
    MODEL,
    SYMMETRY,
    VIOLATION,
    check_close,
    derivative,
    relative_error,
)

from eqpot import Potential
from eqpot.config import LossConfig
from eqpot.data import Dataset
from eqpot.errors import UserError
from eqpot.frames import Frames, Labels
from eqpot.kernels import reference
from eqpot.loss import loss_and_gradient

SMALL = dict(features=8, blocks=3, cutoff=4.0, basis_size=5, radial_width=6)
SETTINGS = {
    "o3": {},
    "so3": dict(symmetry="so3"),
    "o3_norm": dict(nonlinearity="norm"),
    "so3_norm": dict(symmetry="so3", nonlinearity="norm"),
    "o3_residual": dict(self_connection="residual"),
    "so3_residual_norm": dict(symmetry="so3", self_connection="residual", nonlinearity="norm"),
    "l0": dict(l_max=0),
    "l0_residual": dict(l_max=0, self_connection="residual"),
    "l0_norm_residual": dict(l_max=0, nonlinearity="norm", self_connection="residual"),
    "one_block": dict(blocks=1),
    "two_blocks": dict(blocks=2, radial_depth=0),
    "deep_radial": dict(radial_depth=2, envelope_p=4),
    "odd_features": dict(symmetry="so3", features=5),
    "isolated_atoms": dict(isolated_atoms=True),
    "isolated_atoms_norm_residual": dict(
        isolated_atoms=True, nonlinearity="norm", self_connection="residual"
    ),
}
over_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def potential(dtype: str = "float64", **settings) -> Potential:
    """An untrained one of H, C and O whose scales and shifts tell the species apart."""
    made = Potential.create(species=["H", "C", "O"], seed=3, dtype=dtype, **{**SMALL, **settings})
    made.scale[:] = [0.5, 1.5, 0.8]
    made.shift[:] = [-1.0, 2.0, -3.0]
    made.mean_neighbours = 11.0
    return made


def molecule(n: int = 9, seed: int = 21) -> Atoms:
    symbols = np.random.default_rng(seed).choice(["H", "C", "O"], n)
    symbols[:3] = ["O", "H", "C"]
    return Atoms(symbols, positions=cluster(n, seed))


def crystal(n: int = 6, seed: int = 5, volume: float = 12.0) -> Atoms:
    """A skewed periodic cell, disordered, no two atoms close; volume in Å^3 per atom."""
    rng = np.random.default_rng(seed)
    points = np.stack(
        np.unravel_index(rng.permutation(36)[:n] if n > 12 else np.arange(n), (3, 3, 4)), axis=1
    )
    divisions = np.array([3, 3, 4]) if n > 12 else points.max(axis=0) + 1
    fractions = (points + rng.uniform(-0.12, 0.12, (n, 3))) / divisions
    cell = divisions[:, None] * (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
    cell *= (n * volume / np.linalg.det(cell)) ** (1 / 3)
    symbols = np.resize(["H", "O", "C"], n)
    return Atoms(symbols, positions=fractions @ cell, cell=cell, pbc=True)


def rotation(seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.linalg.det(q)


def transformed(atoms: Atoms, q: np.ndarray) -> Atoms:
    """Positions and cell times q from the right."""
    result = atoms.copy()
    result.cell = atoms.cell[:] @ q
    result.positions = atoms.positions @ q
    return result


def with_positions(atoms: Atoms, positions: np.ndarray) -> Atoms:
    result = atoms.copy()
    result.positions = positions
    return result


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


def check_forces_and_stress(model: Potential, atoms: Atoms):
    result = model.evaluate(atoms)
    f = result.forces
    rng = np.random.default_rng(2)

    def energy(displacement):
        return model.evaluate(with_positions(atoms, atoms.positions + displacement)).energy

    direction = rng.normal(size=f.shape)
    slope = -derivative(lambda h: energy(h * direction), 1e-3)
    check_close(np.sum(f * direction), slope, DIFFERENCE, scale=np.linalg.norm(f), what="all forces")
    for atom, axis in zip(rng.choice(len(atoms), 4, replace=False), [0, 1, 2, 0], strict=True):
        unit = np.zeros(f.shape)
        unit[atom, axis] = 1
        slope = -derivative(lambda h, unit=unit: energy(h * unit), 1e-3)
        check_close(f[atom, axis], slope, DIFFERENCE, scale=np.abs(f).max(), what=f"force {atom} {axis}")

    if result.stress is None:
        return
    volume, slopes = atoms.get_volume(), np.empty((3, 3))
    for a in range(3):
        for b in range(a, 3):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5

            def strained(h, strain=strain):
                return model.evaluate(transformed(atoms, np.eye(3) + h * strain)).energy

            slopes[a, b] = slopes[b, a] = derivative(strained, 1e-3) / volume
    check_close(result.stress, slopes, DIFFERENCE, what="stress")


class LossOf:
    """The full loss of some frames, as a function of the potential's parameters."""

    def __init__(self, model: Potential, frames: list[Atoms]):
        rng = np.random.default_rng(4)
        n = [len(atoms) for atoms in frames]
        periodic = np.array([atoms.pbc.all() for atoms in frames])
        stress = rng.normal(0, 0.1, (len(n), 3, 3))
        stress = stress + stress.swapaxes(1, 2)
        stress[~periodic] = np.nan
        dataset = Dataset(
            atom_ptr=np.concatenate([[0], np.cumsum(n)]),
            numbers=np.concatenate([atoms.numbers for atoms in frames]),
            positions=np.concatenate([atoms.positions for atoms in frames]),
            cell=np.array([atoms.cell[:] for atoms in frames]),
            pbc=np.array([atoms.pbc for atoms in frames]),
            energy=rng.normal(size=len(n)),
            forces=rng.normal(size=(sum(n), 3)),
            stress=stress,
        )
        data = Frames(dataset, model.species, model.config.cutoff)
        everything = np.arange(len(n))
        self.batch, rows = data.batch(everything)
        self.labels = data.labels(everything, rows)
        self.weights = rng.uniform(0.5, 2.0, sum(n))
        self.model, self.has_stress = model, bool(periodic.any())
        self.config = LossConfig(energy=2.0, forces=0.5, stress=30.0)

    def terms(self, prediction: Labels):
        counts, volumes = self.batch.atom_counts, self.batch.volume
        return loss_and_gradient(self.config, prediction, self.labels, counts, self.weights, volumes)

    def value(self) -> float:
        return self.terms(self.model.predict(self.batch, forces=True, stress=self.has_stress))[0]

    def gradient(self):
        (value, *_), gradient = self.model.loss_gradient(self.batch, self.terms, stress=self.has_stress)
        check_close(value, self.value(), MODEL["float64"], what="loss")
        return gradient.copy()


def check_loss_gradient(model: Potential, frames: list[Atoms]):
    """Along a random direction in each parameter array, which moves no other array."""
    loss = LossOf(model, frames)
    gradient = loss.gradient()
    flat = model.params.flat
    start = flat.copy()
    flat[:] = np.arange(len(flat))  # each number's place, so that the views tell where they lie
    position = {name: view.ravel().astype(int) for name, view in model.params.items()}
    flat[:] = start
    assert sorted(np.concatenate(list(position.values()))) == list(range(len(flat)))
    rng = np.random.default_rng(6)
    for name, columns in position.items():
        direction = rng.normal(size=len(columns))

        def value(h, columns=columns, direction=direction):
            flat[columns] = start[columns] + h * direction
            result = loss.value()
            flat[:] = start
            return result

        got, step = gradient[columns] @ direction, 1e-4
        expected = (value(step) - value(-step)) / (2 * step)
        scale = np.linalg.norm(gradient[columns])
        check_close(got, expected, LOSS_GRADIENT, scale=scale, what=name)


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
        "<Potential for H O: o3, l_max 1, 8 features, 4 blocks, cutoff 4 Å, float32>"
    )


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
