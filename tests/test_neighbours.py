"""The neighbour search: every pair there is, by either finder, or one line that says why not."""

import itertools
import math
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111

from eqpot import EqpotCalculator, Potential
from eqpot.errors import UserError
from eqpot.structures import neighbours
from eqpot.structures.graph import frame_graph
from eqpot.structures.neighbours import check_search, search

PERIODIC = list(itertools.product([False, True], repeat=3))


def every_pair(positions, cell, pbc, reach) -> set[tuple[int, ...]]:
    """(i, j, shift) by trying every image; positions may lie some cells away."""
    box = np.where(np.array(pbc)[:, None], cell, 0.0)
    found = set()
    for shift in itertools.product(*(range(-9, 10) if p else [0] for p in pbc)):
        D = positions[None] - positions[:, None] + np.array(shift) @ box
        near = np.linalg.norm(D, axis=2) < reach
        if not any(shift):
            np.fill_diagonal(near, False)
        found |= {(int(i), int(j), *shift) for i, j in zip(*np.nonzero(near), strict=True)}
    return found


def pairs_of(found) -> list[tuple[int, ...]]:
    i, j, S = found
    return sorted((int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, S, strict=True))


def structure(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 6, 3)) + rng.uniform(-1, 1, (3, 3))
    if seed % 2:
        cell[1] *= -1  # left-handed
    return rng.uniform(-4, 8, (rng.integers(1, 9), 3)), cell, rng.uniform(1.5, 4)


@pytest.mark.parametrize("pbc", PERIODIC, ids=lambda pbc: "".join("FT"[p] for p in pbc))
@pytest.mark.parametrize("tree", [False, True], ids=["vesin", "tree"])
def test_finds_every_pair(pbc, tree, monkeypatch):
    if tree:
        monkeypatch.setattr(neighbours, "_is_for_vesin", lambda *_: False)
    for seed in range(4):
        positions, cell, reach = structure(seed)
        expected = sorted(every_pair(positions, cell, pbc, reach))
        assert pairs_of(search(positions, cell, pbc, reach, "ijS", "x")) == expected
        i, j, S, D, d = search(positions, cell, pbc, reach, "ijSDd", "x", full=False)
        halves = {(a, b, *s) for a, b, *s in pairs_of((i, j, S))}
        assert 2 * len(halves) == len(expected)
        assert halves | {(b, a, *(-x for x in s)) for a, b, *s in halves} == set(expected)
        box = np.where(np.array(pbc)[:, None], cell, 0.0)
        np.testing.assert_allclose(D, positions[j] - positions[i] + S @ box, atol=1e-12)
        np.testing.assert_allclose(d, np.linalg.norm(D, axis=1), atol=1e-12)


def potential() -> Potential:
    return Potential.create(
        ("H", "C", "O", "Cu"),
        seed=0,
        features=4,
        blocks=2,
        cutoff=4.0,
        basis_size=4,
        radial_width=4,
        dtype="float64",
    )


def molecule(shift=(0.0, 0.0, 0.0)) -> Atoms:
    """On a grid of 2^-12 Å, on which distances are the same wherever it is."""
    rng = np.random.default_rng(3)
    positions = (
        np.array([[0, 0, 0], [1, 0, 0], [0, 1.25, 0], [0, 0, 1.5]]) + rng.integers(0, 900, (4, 3)) / 2**12
    )
    return Atoms("COHH", positions + shift)


def energy(atoms: Atoms) -> float:
    """By `evaluate`, and by the calculator."""
    model = potential()
    found = model.evaluate(atoms).energy
    assert EqpotCalculator(model).get_potential_energy(atoms) == found
    return found


@pytest.mark.parametrize("far", [(50, 0, 0), (2**20, 0, 0), (0, -(2**29), 0), (2**24, 2**24, -(2**24))])
def test_two_molecules_far_apart(far):
    assert energy(molecule() + molecule(far)) == pytest.approx(2 * energy(molecule()), abs=1e-12)


@pytest.mark.parametrize("pbc", PERIODIC[1:], ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_far_from_the_origin(pbc):
    """Without period, and many cells away along the others."""
    atoms = molecule()
    atoms.cell, atoms.pbc = np.diag([4.0, 8.0, 4.0]), pbc
    expected = energy(atoms)
    atoms.positions += 2**28
    assert energy(atoms) == pytest.approx(expected, abs=1e-12)
    atoms.positions[2] -= [2**28 * p for p in pbc]
    assert energy(atoms) == pytest.approx(expected, abs=1e-12)


# What vesin divides by zero at, or goes through cell by cell.


def tall(pbc, height: float) -> Atoms:
    """Dimers above each other in a slab, or a column."""
    n = 30
    x = np.zeros((n, 3))
    x[:, 2] = np.repeat(height / n * np.arange(n // 2), 2)
    x[1::2, 0] = 2.0
    return Atoms(f"Cu{n}", x, cell=[12, 12, 0], pbc=pbc)


def sheet(pbc) -> Atoms:
    n = 30
    x = np.c_[np.repeat(100.0 * np.arange(n // 2), 2), np.repeat(120.0 * np.arange(n // 2), 2), np.zeros(n)]
    x[1::2, 0] += 2.0
    return Atoms(f"Cu{n}", x, cell=[2000, 2000, 30], pbc=pbc)


DIMERS = {
    "slab": tall([True, True, False], 1e6),
    "wire": tall([True, False, False], 1e6),
    "column": tall([False, False, False], 1e6),
    "sheet": sheet(False),
    "periodic sheet": sheet(True),
}


@pytest.mark.parametrize("atoms", DIMERS.values(), ids=DIMERS)
def test_long_and_flat(atoms):
    started = time.monotonic()
    dimer = Atoms("Cu2", [[0, 0, 0], [2, 0, 0]])
    assert energy(atoms) == pytest.approx(15 * energy(dimer), abs=1e-9)
    assert time.monotonic() - started < 10


def test_long_chain():
    positions = np.c_[5.0 * np.arange(120_000), np.zeros((120_000, 2))]
    i, j = search(positions, np.zeros((3, 3)), [False] * 3, 5.5, "ij", "x")
    assert len(i) == 2 * 119_999 and (np.abs(i - j) == 1).all()


def test_large_and_dense_is_vesins():
    """As ever: its order, its bits; a crystal of a million atoms is divided into more cells than it makes."""
    n = 100
    positions = np.stack(np.meshgrid(*[2.5 * np.arange(n)] * 3), axis=-1).reshape(-1, 3)
    assert neighbours._is_for_vesin(positions, 2.5 * n, [2.5 * n] * 3, 5.0)
    assert neighbours._is_for_vesin(positions, 2.5 * n, [math.inf] * 3, 2.0)


SKEWED = {"almost parallel": (400.0, 2.5), "still more so": (4e5, 2.5)}


@pytest.mark.parametrize(("long", "high"), SKEWED.values(), ids=SKEWED)
def test_skewed_without_need(long, high):
    """A cell that is another one's, but for how it is written, has the same energy."""
    expected = energy(Atoms("Cu", cell=[[high, 0, 0], [0, long, 0], [0, 0, 4]], pbc=True))
    written = Atoms("Cu", cell=[[0, long, 0], [high, long, 0], [0, 0, 4]], pbc=True)
    assert energy(written) == pytest.approx(expected, abs=1e-9)


def flat(a: Atoms, pbc, **cell) -> Atoms:
    for row, vector in cell.items():
        a.cell["abc".index(row)] = vector
    a.pbc = pbc
    return a


CROWD = Atoms("Cu100000", np.random.default_rng(0).uniform(0, 1, (100_000, 3)))
REFUSED = {
    "no third vector": (flat(fcc111("Cu", (2, 2, 2)), True), "cell: expected independent .* 5.11, 5.11, 0 Å"),
    "mixed": (flat(fcc111("Cu", (2, 2, 2)), [1, 0, 1], b=0), "cell: expected independent .*TFT"),
    "zero": (flat(fcc111("Cu", (2, 2, 2)), [1, 1, 0], b=0), "cell: expected independent .*TTF"),
    "parallel": (
        Atoms("Cu", cell=[[4, 0, 0], [4, 4e-7, 0], [0, 0, 4]], pbc=True),
        "cell: expected independent",
    ),
    "endless cell": (
        Atoms("Cu", cell=[1e200] * 3, pbc=True),
        "cell: expected vectors up to 1e.09 Å, found 1e.200",
    ),
    "tiny cell": (
        Atoms("Cu", cell=[0.01] * 3, pbc=True),
        r"about (2.7|3.8)e\+08 pairs within 4.* Å of 1 atoms",
    ),
    "almost parallel": (
        Atoms("Cu", cell=[[4, 0, 0], [4, 1e-5, 0], [0, 0, 4]], pbc=True),
        r"cell: expected vectors that keep images of an atom apart, found about .*e\+06 neighbours",
    ),
    "NaN in the cell": (Atoms("Cu", cell=[4, np.nan, 4], pbc=True), "cell: expected finite numbers"),
    "crowd": (CROWD, r"about 1.0e\+10 pairs within 4.* Å of 100000 atoms"),
    "1e300": (
        Atoms("Cu2", [[0, 0, 0], [1e300, 0, 0]]),
        "within 1e.09 Å of the origin.*found one at 1e.300 Å",
    ),
    "infinite": (Atoms("Cu2", [[0, 0, 0], [np.inf, 0, 0]]), "expected finite numbers"),
    "many cells away": (
        Atoms("Cu2", [[0, 0, 0], [0, 9e8, 0]], cell=[1, 0, 0], pbc=[1, 0, 0]),
        r"within 5e\+08 cells of the origin, found one at 9e\+08 Å and a cell 1 Å high",
    ),
}


@pytest.mark.parametrize(("atoms", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(atoms, words, monkeypatch):
    monkeypatch.setattr(neighbours, "memory", lambda: 16e9)
    for call in (potential().evaluate, EqpotCalculator(potential()).get_potential_energy):
        with pytest.raises(UserError, match=words) as caught:
            call(atoms)
        assert "\n" not in str(caught.value)


def test_wide_reach():
    with pytest.raises(UserError, match="pairs within 1e.06 Å of 1 atoms and their images"):
        frame_graph(np.array([29]), np.zeros((1, 3)), 4 * np.eye(3), np.ones(3, bool), (29,), 1e6)
    alone = frame_graph(np.array([29] * 2), np.eye(3)[:2], np.zeros((3, 3)), np.zeros(3, bool), (29,), 1e6)
    assert len(alone.senders) == 2


def test_count_of_pairs():
    """What decides over memory is right to a factor, for even and uneven structures."""
    rng = np.random.default_rng(1)
    even, clumps = 40 * rng.random((4000, 3)), np.repeat(40 * rng.random((40, 3)), 100, axis=0)
    for positions in (even, clumps + 0.1 * rng.random((4000, 3)), even * [1, 1, 1e-3]):
        for pbc in ([True] * 3, [True, True, False], [False] * 3):
            geometry = positions, np.diag([40.0, 41.0, 42.0]), np.array(pbc)
            heights, _ = check_search(*geometry, 5.0, "x")
            true = len(search(*geometry, 5.0, "i", "x")[0])
            assert true / 4 < neighbours._count(*geometry, 5.0, heights) < 10 * true
