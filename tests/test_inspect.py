"""What a potential does inside: named intermediates, shares of the energy, paths switched off, their cost."""

import io
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as ase_molecule
from potentials import crystal, molecule, over_settings, potential
from rich.console import Console
from tolerances import check_close, derivative

from eqpot import EqpotCalculator, Potential
from eqpot.commands.explain import computation, cost
from eqpot.commands.inspect import tables
from eqpot.errors import UserError
from eqpot.inspect import PATHS, inspect_structure, path_contributions, trace
from eqpot.kernels.products import PATH_FACTORS
from eqpot.kernels.reference import path_products, sum_by
from eqpot.network.steps import operations, steps
from eqpot.report import to_json
from eqpot.structures.graph import collate

ROUND_OFF = 1e-12
WITH_VECTORS = set(PATHS[1:5])
over_structures = pytest.mark.parametrize("make", [molecule, crystal], ids=["molecule", "crystal"])


def columns_of(model: Potential, block: int, path: str) -> np.ndarray:
    """A view of the weights of the last radial layer that belong to a path, [hidden, C]."""
    b, C = model.model.blocks[block - 1], model.config.features
    slot = b.paths[PATHS.index(path), 0]
    return model.params[b.radial.name].reshape(-1, b.radial.columns)[:, slot * C : (slot + 1) * C]


def alone(model: Potential, atoms: Atoms) -> np.ndarray:
    """Energies [n] of the atoms, eV, each by itself."""
    return np.array([model.evaluate(Atoms([z])).energy for z in atoms.numbers])


# ------------------------------------------------------------ shares of the energy


@over_settings
@over_structures
def test_shares_and_rest_sum_to_the_energy(make, settings):
    model, atoms = potential(**settings), make()
    found, expected = path_contributions(model, atoms), model.evaluate(atoms)
    assert list(found.shares) == list(model.model.paths)
    assert all(share.shape == (len(atoms),) for share in found.shares.values())
    shares = np.array(list(found.shares.values()))
    size = np.abs(shares).sum() + np.abs(expected.energies).sum()
    in_use = [path != "1x1->1" for _, path in found.shares]
    # With products on atoms more paths share, and take smaller parts.
    least = 1e-6 if model.config.of_papers else 1e-7
    assert np.abs(shares[in_use]).sum(axis=1).min() > least * size, "every path does something"
    assert abs(found.energy - expected.energy) <= ROUND_OFF * size
    assert abs(found.energy_rest + shares.sum() - found.energy) <= ROUND_OFF * size
    assert abs(found.energy_rest - alone(model, atoms).sum()) <= ROUND_OFF * size


@pytest.mark.slow
def test_shares_of_a_network_that_changes_fast_along_the_line():
    """For weights drawn anew 192 nodes on the whole line are too few, and more sum roughly."""
    model, atoms = Potential.create(["C", "H", "O"], seed=0, features=8), ase_molecule("CH3CH2OH")
    found, expected = path_contributions(model, atoms), model.evaluate(atoms).energy
    total = found.energy_rest + sum(share.sum() for share in found.shares.values())
    assert abs(total - found.energy) <= 1e-11 * abs(found.energy)
    assert abs(found.energy - expected) <= 1e-5 * abs(expected)


def test_zbl_is_part_of_the_rest():
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.6]])
    with_zbl, without = (path_contributions(potential(zbl=zbl), atoms) for zbl in (True, False))
    repulsion = potential(zbl=True).evaluate(atoms).energy - potential().evaluate(atoms).energy
    assert repulsion > 1 and with_zbl.energy_rest - without.energy_rest == pytest.approx(repulsion)
    check_close(list(with_zbl.shares.values()), list(without.shares.values()), ROUND_OFF)


@pytest.mark.parametrize("settings", [dict(symmetry="so3"), dict(self_connection="residual")], ids=str)
def test_a_share_is_the_integral_of_the_slope(settings):
    """Differences of the NumPy reference's energy, the weights of all paths scaled, and of one a bit more."""
    model, atoms = potential(**settings, features=4), molecule(5)
    base, paths = model.cast("float64", "ref"), list(model.model.paths)
    batch = collate([base.graph(atoms)], len(base.species))

    def energy(strength: float, one: tuple[int, str], more: float) -> float:
        scaled = base.cast("float64")
        for path in paths:
            columns_of(scaled, *path)[:] *= strength + (more if path == one else 0)
        return scaled.predict(batch, forces=False).energy[0]

    places, weights = np.polynomial.legendre.leggauss(6)
    expected = [
        sum(
            w / 2 * derivative(partial(energy, (1 + t) / 2, one), 1e-3)
            for t, w in zip(places, weights, strict=True)
        )
        for one in paths
    ]
    found = [share.sum() for share in path_contributions(model, atoms).shares.values()]
    check_close(found, expected, 1e-6)


@pytest.mark.parametrize("symmetry", ["o3", "so3"])
def test_under_o3_cross_products_count_in_pairs(symmetry):
    """Axial vectors, and the odd scalars that they make with Y1, reach an energy, which is even, through a
    second cross product only: three blocks have room for one. A mirror of the structure changes no share."""
    for blocks in (3, 4):
        model, atoms = potential(symmetry=symmetry, blocks=blocks), molecule()
        found = inspect_structure(model, atoms, timing=False)
        cross = {p.block: p for p in found.paths if p.path == "1x1->1"}
        used = {k for k, p in cross.items() if abs(p.energy_share) > 1e-6}
        assert used == (set() if symmetry == "o3" and blocks == 3 else set(cross))
        mirrored = atoms.copy()
        mirrored.positions[:, 0] *= -1
        other = [p.energy_share for p in inspect_structure(model, mirrored, timing=False).paths]
        same = np.allclose([p.energy_share for p in found.paths], other, rtol=0, atol=1e-10)
        assert same == (symmetry == "o3")


def test_shares_by_atom():
    """With one block, a message to an atom moves the energy of that atom alone. Far molecules add up. The
    order of atoms is that of the structure."""
    one_block, atoms = potential(blocks=1), molecule()
    (share,) = path_contributions(one_block, atoms).shares.values()
    check_close(share, one_block.evaluate(atoms).energies - alone(one_block, atoms), ROUND_OFF)

    model, other = potential(), molecule(6, seed=4)
    other.positions += 100
    both = path_contributions(model, atoms + other).shares
    parts = [path_contributions(model, a).shares for a in (atoms, other)]
    for path, shares in both.items():
        check_close(shares, np.concatenate([part[path] for part in parts]), 1e-11, what=str(path))


@pytest.mark.parametrize("atoms", [Atoms("C"), Atoms("CO", [[0, 0, 0], [0, 0, 50.0]])])
def test_without_neighbours_all_is_rest(atoms):
    found = inspect_structure(potential(), atoms, timing=False)
    assert found.energy == pytest.approx(found.energy_rest, rel=1e-14)
    assert all(p.energy_share == p.message_norm == p.force_change_off == 0 for p in found.paths)
    assert found.neighbours == [[] for _ in atoms] and found.distances.shape == (0,)
    assert trace(potential(), atoms)["block2.w"].shape == (0, 5, 8)


# ------------------------------------------------------------ paths switched off


def submatrix(matrix, weights: np.ndarray, inputs: int) -> np.ndarray:
    """One group's matrix with its factors, from the first input that it takes on, [inputs, columns]."""
    first, end = matrix.pieces[:, 0].min(), np.max(matrix.pieces[:, 0] + matrix.pieces[:, 1])
    found = np.zeros((max(inputs, end - first), matrix.columns))
    for (x, k, y, m, at), scale in zip(matrix.pieces - [first, 0, 0, 0, 0], matrix.scales, strict=True):
        found[x : x + k, y : y + m] = scale * weights[at : at + k * m].reshape(k, m)
    return found[:inputs]


def scalars_only(model: Potential) -> Potential:
    """The l_max = 0 potential with the weights of 0x0->0 and of all that connects scalars, in NumPy.

    Its fixed factors are its own, since it has fewer inputs: the weights are those that give the same
    products. Odd scalars, zero without vectors, become even ones that stay zero: silu(0) = tanh(0) = 0.
    """
    bare = Potential(replace(model.config, l_max=0), model.species, "float64", backend="ref")
    bare.scale[:], bare.shift[:], bare.mean_neighbours = model.scale, model.shift, model.mean_neighbours
    C, old, new = model.config.features, model.model, bare.model
    for name in ("embedding", "frequencies", *(m.name for m in old.radial + old.output)):
        bare.params[name][:] = model.params[name]
    for a, b in zip(old.blocks, new.blocks, strict=True):
        after_gates = slice(a.gates, None)
        for source, target, columns in (
            (a.radial, b.radial, slice(0, C)),
            (a.self_in_s, b.self_in_s, slice(0, C)),
            (a.self_out_s, b.self_out_s, after_gates),
            (a.self_connection_s, b.self_connection_s, after_gates),
        ):
            for z, weights in enumerate(model.params[source.name] if source else ()):
                part = submatrix(source, weights, target.pieces[0, 1])[:, columns]
                bare.params[target.name][z] = (part / target.scales[0]).ravel()
    return bare


@over_structures
@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(symmetry="so3", features=5),
        dict(symmetry="so3", self_connection="residual"),
        dict(nonlinearity="norm", zbl=True),
    ],
    ids=str,
)
def test_without_vectors_it_is_the_invariant_model(settings, make):
    model, atoms = potential(**settings), make()
    found, expected = model.evaluate(atoms, WITH_VECTORS), scalars_only(model).evaluate(atoms)
    check_close(found.energies, expected.energies, ROUND_OFF)
    check_close(found.forces, expected.forces, ROUND_OFF)
    assert np.abs(found.forces - model.evaluate(atoms).forces).max() > 1e-3 * np.abs(found.forces).max()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_is_switched_off_sends_nothing(dtype):
    model, atoms = potential(dtype), molecule()
    before = model.params.flat.copy()
    whole, part = trace(model, atoms), trace(model.without({(2, "1x1->0")}), atoms)
    assert not part["block2.message.1x1->0"].array.any()
    for name in ("block2.message.0x0->0", "block2.message.1x1->1"):
        assert np.array_equal(part[name].array, whole[name].array)
    assert np.abs(part["block3.s"].array - whole["block3.s"].array).max() > 1e-6

    off = {(2, "1x1->0"), (3, "0x0->0")}
    expected = model.evaluate(atoms, off)
    atoms.calc = EqpotCalculator(model, paths_off=off)
    assert np.array_equal(atoms.get_forces(), expected.forces)
    assert np.array_equal(model.evaluate([atoms, atoms], off)[1].forces, expected.forces)
    assert np.array_equal(model.params.flat, before), "the potential itself is as it was"


def test_selections():
    """A path stands for all blocks that have it, a block for all of its paths."""
    model, atoms = potential(), molecule()
    by_pairs = model.evaluate(atoms, {(b, p) for b, p in model.model.paths if b == 2 or p == "0x0->0"})
    assert model.evaluate(atoms, {2, "0x0->0"}).energy == by_pairs.energy
    silent = model.evaluate(atoms, {1, 2, 3})
    check_close(silent.energies, alone(model, atoms), ROUND_OFF)
    assert not silent.forces.any()


@pytest.mark.parametrize(
    ("paths_off", "words"),
    [
        ({(1, "1x1->0")}, "found (1, '1x1->0')"),  # the first block sees scalars only
        ({4}, "a block from 1 to 3, a path (0x0->0, 0x1->1, 1x0->1, 1x1->0, 1x1->1)"),
        ({"1x1"}, "found '1x1'"),
        ((2, "1x1->0"), "expected a set such as {(1, '0x0->0')}, found (2, '1x1->0')"),
    ],
)
def test_what_is_no_path(paths_off, words):
    for call in (
        lambda: potential().evaluate(molecule(), paths_off),
        lambda: EqpotCalculator(potential(), paths_off=paths_off),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert words in str(error.value)


# ------------------------------------------------------------ every intermediate


@over_settings
def test_trace_has_every_step_in_its_shape(settings):
    model, atoms = potential(**settings), crystal()
    found, result = trace(model, atoms), model.evaluate(atoms)
    n, E = len(atoms), len(model.graph(atoms).senders)
    assert list(found) == ["receivers", "senders", *(step.name for step in steps(model.model))]
    for step in steps(model.model):
        quantity = found[step.name]
        assert quantity.shape == tuple({"n": n, "E": E}.get(size, size) for size in step.shape), step.name
        assert np.isfinite(quantity.array).all() and quantity.meaning
    check_close(found["energies"].array, result.energies, ROUND_OFF)
    check_close(found["forces"].array, result.forces, ROUND_OFF)
    species = np.searchsorted(model.species, atoms.numbers)
    x = found["x"].array - (found["x0"].array if model.config.isolated_atoms else 0)
    check_close(model.scale[species] * x + model.shift[species], result.energies, ROUND_OFF)


@pytest.mark.parametrize("settings", [{}, dict(symmetry="so3"), dict(l_max=0)], ids=str)
def test_trace_is_in_the_order_of_the_structure(settings):
    """Edges join the atoms they name, and messages follow from features and weights by the formulas."""
    model, atoms = potential(**settings), molecule()
    q = {name: quantity.array for name, quantity in trace(model, atoms).items()}
    i, j = q["receivers"], q["senders"]
    check_close(q["edge_vec"], atoms.positions[j] - atoms.positions[i], ROUND_OFF)
    assert list(zip(i, j, strict=True)) == sorted(zip(i, j, strict=True))
    v = q.get("block2.self_in.v", np.zeros((len(atoms), 3, 8)))
    products = path_products(q["block2.self_in.s"][j], v[j], q["unit"])
    here = [p for block, p in model.model.paths if block == 2]
    for slot, path in enumerate(here):
        product = products[PATHS.index(path)]
        w = q["block2.w"][:, slot].reshape(len(i), *[1] * (product.ndim - 2), -1)
        check_close(q[f"block2.message.{path}"], sum_by(i, w * product, len(atoms)), ROUND_OFF, what=path)
    g = q["block1.sum.s"]
    assert g.shape[1] == (8 if model.config.l_max == 0 else 16)
    check_close(q["block1.s"][:, 0], g[:, -8] / (1 + np.exp(-g[:, -8])), ROUND_OFF, what="silu")


# ------------------------------------------------------------ the whole inspection


@over_settings
def test_inspection(settings):
    model, atoms = potential("float32", **settings), molecule()
    found = inspect_structure(model, atoms, "molecule", timing=False)
    exact = model.cast("float64")
    result, q = exact.evaluate(atoms), trace(model, atoms)
    assert found.model == repr(model) and "float32" in found.model
    assert [(p.block, p.path) for p in found.paths] == list(model.model.paths)
    check_close(found.forces, result.forces, ROUND_OFF)
    total = found.energy_rest + sum(p.energy_share for p in found.paths)
    assert total == pytest.approx(found.energy, rel=1e-11) and found.energies.sum() == pytest.approx(total)
    for p in found.paths:
        message = q[f"block{p.block}.message.{p.path}"].array
        norms = np.linalg.norm(message.reshape(len(atoms), -1), axis=1)
        assert p.message_norm == pytest.approx(np.sqrt(np.mean(norms**2)))
        off = exact.evaluate(atoms, {(p.block, p.path)})
        assert p.energy_change_off == pytest.approx(off.energy - result.energy, abs=1e-12)
        change = np.linalg.norm(off.forces - result.forces) / np.sqrt(3 * len(atoms))
        assert p.force_change_off == pytest.approx(change)
        assert p.energy_share == pytest.approx(p.energy_shares.sum()) and np.isnan(p.seconds)

    blocks = model.config.blocks
    assert len(found.scalars) == len(found.vectors) == len(found.rotated_vectors) == blocks + 1
    R = found.rotation
    assert np.allclose(R @ R.T, np.eye(3)) and np.linalg.det(R) == pytest.approx(1)
    for v, rotated in zip(found.vectors, found.rotated_vectors, strict=True):
        check_close(rotated, np.einsum("ab,nbc->nac", R, v), 1e-11)
    mirrored = model.config.l_max == 0 or model.config.symmetry == "o3"
    first = 1 if model.config.node_products else 2  # block with vectors on both sides of a cross product
    for k, row in enumerate(found.equivariance, 1):
        assert row["block"] == k and max(row["rotation"], row["permutation"]) <= 1e-11
        assert row["mirror"] <= 1e-11 if mirrored or k < first else row["mirror"] > 1e-6, row
    assert len(found.equivariance) == blocks
    for i, around in enumerate(found.neighbours):
        assert [r for _, r in around] == sorted(r for _, r in around)
        assert all(atoms.get_distance(i, j) == pytest.approx(r) for j, r in around)
    assert sum(map(len, found.neighbours)) == len(found.distances)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_radial_functions(depth):
    """Those of a pair of atoms at one of the distances shown."""
    model = potential(radial_depth=depth)
    found = inspect_structure(model, molecule(), timing=False)
    assert found.radii[0] > 0 and found.radii[-1] == model.config.cutoff
    k = 77
    w = trace(model, Atoms("CO", [[0, 0, 0], [0, 0, found.radii[k]]]))["block2.w"].array[0]
    for slot, (p, path) in enumerate(enumerate(PATHS[:5])):
        check_close(found.radial[2, path][k], PATH_FACTORS[p] * w[slot], ROUND_OFF)
        assert not found.radial[2, path][-1].any(), "nothing is left at the cutoff"
    assert list(found.radial) == list(model.model.paths)


def test_cost_and_text_and_json():
    model, atoms = potential("float32", symmetry="so3"), crystal()
    found = inspect_structure(model, atoms, "c.xyz")
    assert all(0 < p.seconds < 1 for p in found.paths)
    counts = {(p.block, p.path): p.operations for p in found.paths}
    # 2 operations each for the message, what goes to the features (not in the first block), to the weights
    channels = 8 * len(found.distances)
    assert counts[1, "0x0->0"] == 4 * channels and counts[2, "0x0->0"] == 6 * channels
    assert counts[2, "1x1->1"] == 60 * channels

    content = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert content.keys() == {"energy", "energies", "paths", "energy_rest", "units"}
    shares = sum(p["energy_share"] for p in content["paths"])
    assert shares + content["energy_rest"] == pytest.approx(content["energy"], rel=1e-11)
    assert content["energies"] == found.energies.tolist()
    names = {"block", "path", "message_norm", "energy_share", "energy_change_off", "force_change_off"}
    assert {frozenset(p) for p in content["paths"]} == {frozenset(names | {"operations", "seconds"})}
    assert content["units"]["force_change_off"] == "eV/Å"
    assert content["units"].keys() >= (content.keys() | names) - {"units", "paths", "block", "path"}

    text = shown(*tables(found))
    assert text.count("1x1->0") == 2 and f"{found.energy_rest:.4f}" in text and "c.xyz, 6 atoms" in text
    assert f"{found.paths[0].force_change_off:.4f}" in text and "mirror" in text


def shown(*made) -> str:
    console = Console(width=80, file=io.StringIO())
    for table in made:
        console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("atoms", [Atoms(), "water.xyz"])
def test_what_cannot_be_inspected(atoms, tmp_path):
    for call in (trace, path_contributions, inspect_structure):
        with pytest.raises(UserError, match="atoms: expected an ase.Atoms with at least one atom"):
            call(potential(), atoms)
        with pytest.raises(UserError, match="none.h5: expected a model file, found no such file"):
            call(tmp_path / "none.h5", Atoms("H"))


# ------------------------------------------------------------ explained


@over_settings
def test_every_weight_is_explained(settings):
    model = potential(**settings)
    assert sum(step.weights for step in steps(model.model)) == len(model.params.flat)
    text = shown(computation(model), cost(model, "c.xyz", 6, 100))
    assert f"{len(model.params.flat):,}" in text and "c.xyz: 6 atoms, 100 edges" in text
    assert f"[n, {model.config.features}]" in text


def test_operations_counted_by_hand():
    model = potential(l_max=0, blocks=1, features=2, basis_size=3, radial_width=4).model
    edges = 6 + 28 + (12 * 3 + 30)  # length, direction, basis
    edges += 4 * (3 * 4) + 3 * 4 + 4 * (4 * 2)  # hidden layer, its ssp and slope, w
    edges += 2 * (2 + 2) + 6  # 0x0->0 and back to w; forces
    atoms = (
        2 * (2 * 2) + 4 * (2 * 2) + 2 * (2 * 2) + 2
    )  # self-interactions in and out, self-connection, its sum
    atoms += 3 * 2 + 4 * 2 + 3 + 4 + 3  # silu; readout of 2 -> 1, silu, -> 1; scale, shift, sum
    assert operations(model, 7, 50) == 7 * atoms + 50 * edges


def test_equal_blocks_are_shown_once():
    text = shown(computation(potential(blocks=5)))
    assert "blocks 2 to 4, each" in text and text.count("1x1->1") == 1
