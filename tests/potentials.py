"""Potentials and structures that the tests build on; tolerances and graphs have their own files."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from graphs import SKEW, cluster

from eqpot.potential import Potential
from eqpot.structures.graph import Batch, collate, frame_graph

OF_PAPERS = dict(filter_order=1, node_products=False, parity="both")
SMALL = dict(features=8, blocks=3, cutoff=4.0, basis_size=5, radial_width=6, **OF_PAPERS)


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
    "natural": dict(parity="natural", features=7),
    "second": dict(filter_order=2, node_products=True),
    "second_natural": dict(filter_order=2, node_products=True, parity="natural"),
    "second_so3_residual_norm": dict(
        filter_order=2, node_products=True, symmetry="so3", self_connection="residual", nonlinearity="norm"
    ),
    "filters_of_order_2": dict(filter_order=2),
    "third": dict(filter_order=3, node_products=True, blocks=2),
    "third_so3_residual_norm": dict(
        filter_order=3, node_products=True, symmetry="so3", self_connection="residual", nonlinearity="norm"
    ),
    "third_odd_features": dict(filter_order=3, node_products=True, parity="natural", features=5, blocks=2),
    "node_products": dict(node_products=True, features=5, symmetry="so3"),
    "node_products_one_block_l0": dict(node_products=True, blocks=1, l_max=0),
    "isolated_atoms_norm_residual": dict(
        isolated_atoms=True, nonlinearity="norm", self_connection="residual"
    ),
}


over_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


GATED = {name: settings for name, settings in SETTINGS.items() if settings.get("nonlinearity") != "norm"}


TINY = {"features": 4, "blocks": 2, "cutoff": 3.5, "basis_size": 4, "radial_width": 3, **OF_PAPERS}


TINY_SETTINGS = {
    "o3": {},
    "so3": {"symmetry": "so3"},
    "l_max 0": {"l_max": 0},
    "one block": {"blocks": 1},
    "residual": {"self_connection": "residual"},
    "norm": {"nonlinearity": "norm"},
    "zbl": {"zbl": True},
    "no hidden layer": {"radial_depth": 0},
    "odd widths": {"features": 5, "symmetry": "so3", "radial_depth": 2},
    "isolated atoms": {"isolated_atoms": True},
    "second order": {"filter_order": 2, "node_products": True},
    "natural": {"parity": "natural", "blocks": 3},
    "second order, natural": {"filter_order": 2, "node_products": True, "parity": "natural", "features": 5},
    "second order, so3": {"filter_order": 2, "node_products": True, "symmetry": "so3", "blocks": 3},
    "filters of order 2": {"filter_order": 2},
    "third order": {"filter_order": 3, "node_products": True},
    "third order, so3": {"filter_order": 3, "node_products": True, "symmetry": "so3", "blocks": 3},
    "node products": {"node_products": True, "self_connection": "residual", "isolated_atoms": True},
    "node products, l_max 0": {"node_products": True, "l_max": 0},
}


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


STRUCTURES = [molecule(5), crystal(3), Atoms("O", positions=[[0, 0, 0]])]


def two_blocks(
    dtype: str = "float64", species=("H", "C", "O"), cutoff: float = 3.5, seed: int = 3
) -> Potential:
    """An untrained one of two blocks, for what takes many steps; what it has for minima are not deep."""
    settings = dict(parity="both", features=8, blocks=2, cutoff=cutoff, basis_size=5, radial_width=6)
    made = Potential.create(species, seed=seed, dtype=dtype, **settings)
    made.scale[:] = 0.3 + 0.2 * np.arange(len(species))
    made.shift[:] = np.arange(len(species)) - 2.0
    made.mean_neighbours = 11.0
    return made


def cluster_of_nine() -> Atoms:
    return Atoms("OHCHHOCHH", positions=cluster(9, 21))


def narrow_crystal() -> Atoms:
    """A skewed cell, narrower than the cutoff along one direction."""
    rng = np.random.default_rng(5)
    cell = np.array([[3.2, 0.1, 0.0], [0.3, 4.6, 0.2], [-0.2, 0.4, 5.1]])
    corners = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1) / 2
    fractions = corners + rng.uniform(-0.06, 0.06, (8, 3))
    return Atoms("HOCHOHCH", positions=fractions @ cell, cell=cell, pbc=True)


def slab() -> Atoms:
    atoms = narrow_crystal()
    atoms.pbc = [True, True, False]
    return atoms


def structure(kind: str) -> Atoms:
    rng = np.random.default_rng(7)
    if kind == "cluster":
        return Atoms("CH2O" * 6, positions=rng.uniform(0, 9, (24, 3)))
    if kind == "slab":
        return Atoms(
            "CO" * 9, positions=rng.uniform(-4, 12, (18, 3)), cell=[6, 7, 8], pbc=[True, True, False]
        )
    if kind == "tiny cell":
        return Atoms("CO", positions=[[0.1, 0.2, 0.3], [9.0, -1.0, 1.4]], cell=SKEW, pbc=True)
    if kind == "alone":
        return Atoms("O", positions=[[1, 2, 3]])
    cell = np.array([[11.0, 0, 0], [3.0, 9.0, 0], [-2.0, 1.0, 12.0]])
    return Atoms("CH2O" * 8, positions=rng.uniform(-5, 20, (32, 3)), cell=cell, pbc=True)


def batch(model, *structures) -> Batch:
    return collate(
        [
            frame_graph(a.numbers, a.positions, a.cell[:], a.pbc, model.species, model.config.cutoff)
            for a in structures
        ],
        len(model.species),
    )


class Rounded(EMT):
    """Forces in steps of 1e-4 eV/Å and never zero, so that two structures have the same ones."""

    def calculate(self, *arguments) -> None:
        super().calculate(*arguments)
        self.results["forces"] = np.round(self.results["forces"], 4) + 2e-5


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
