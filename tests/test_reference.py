"""The reference network: is it the model that its docstring promises, whatever the kernels do?"""

from dataclasses import dataclass, replace
from functools import cache
from zlib import crc32

import numpy as np
import pytest
from graphs import cluster, neighbours
from tolerances import DIFFERENCE, SYMMETRY, VIOLATION, check_close, derivative, relative_error

from eqpot.kernels import reference

MEAN_NEIGHBOURS = 12.0
SPECIES = np.array([0, 0, 0, 1, 1, 2, 2, 2])
SCALE = np.array([0.7, 1.3, 2.0])
POSITIONS = cluster(8, 11)


@dataclass(frozen=True)
class Config:
    """The fields of eqpot's model configuration, without eqpot."""

    symmetry: str = "o3"
    parity: str = "both"
    l_max: int = 1
    nonlinearity: str = "gate"
    self_connection: str = "species"
    features: int = 6
    blocks: int = 3
    cutoff: float = 4.0
    basis_size: int = 4
    envelope_p: int = 6
    radial_depth: int = 1
    radial_width: int = 5
    filter_order: int = 1
    node_products: bool = False


CONFIGS = [
    Config(),
    Config(symmetry="so3"),
    Config(nonlinearity="norm"),
    Config(symmetry="so3", nonlinearity="norm"),
    Config(self_connection="residual"),
    Config(symmetry="so3", self_connection="residual"),
    Config(l_max=0),
    Config(l_max=0, self_connection="residual", nonlinearity="norm"),
    Config(blocks=1),
    Config(blocks=2, self_connection="residual"),
    Config(radial_depth=0),
    Config(radial_depth=2, envelope_p=2),
    Config(symmetry="so3", features=3),
    Config(parity="natural", features=5),
    Config(filter_order=2, node_products=True),
    Config(filter_order=2, node_products=True, parity="natural"),
    Config(filter_order=2, node_products=True, symmetry="so3", self_connection="residual"),
    Config(filter_order=2),
    Config(filter_order=3, node_products=True),
    Config(filter_order=3, node_products=True, symmetry="so3", self_connection="residual"),
    Config(filter_order=3, node_products=True, parity="natural"),
    Config(node_products=True, blocks=2),
]
over_configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, vars(c).values())))


class RandomParams(dict):
    """Standard-normal arrays made when first asked for, with more columns than any layer reads."""

    def __init__(self, config: Config):
        rng = np.random.default_rng(0)
        super().__init__(
            embedding=rng.normal(size=(3, config.features)),
            frequencies=np.pi * np.arange(1, config.basis_size + 1),
        )

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = np.random.default_rng(crc32(name.encode())).normal(size=(3, 20000))
        return self[name]


params = cache(RandomParams)


def graph(config, positions):
    receivers, senders, edge_vec = neighbours(positions, None, config.cutoff)
    return edge_vec, senders, receivers


def energies(config, positions, species=SPECIES):
    arguments = (config, 3, params(config), species, *graph(config, positions), MEAN_NEIGHBOURS)
    return SCALE[species] * reference.energies(*arguments)


def forces(config, positions, species=SPECIES):
    arguments = (config, 3, params(config), species, *graph(config, positions), MEAN_NEIGHBOURS)
    return reference.forces(*arguments, SCALE)


def rotation(seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.linalg.det(q)


@over_configs
def test_forces_are_differences(config):
    direction = np.random.default_rng(1).normal(size=POSITIONS.shape)
    expected = -derivative(lambda h: energies(config, POSITIONS + h * direction).sum(), 1e-3)
    f = forces(config, POSITIONS)
    check_close(np.sum(f * direction), expected, DIFFERENCE, scale=np.sum(np.abs(f * direction)))
    check_close(f.sum(axis=0), np.zeros(3), SYMMETRY["float64"], scale=np.abs(f).max(), what="net force")


@over_configs
def test_rotation_and_permutation(config):
    e, f, q = energies(config, POSITIONS), forces(config, POSITIONS), rotation()
    check_close(energies(config, POSITIONS @ q.T), e, SYMMETRY["float64"])
    check_close(forces(config, POSITIONS @ q.T), f @ q.T, SYMMETRY["float64"])
    order = np.array([2, 1, 0, 4, 3, 7, 5, 6])
    check_close(energies(config, POSITIONS[order]), e[order], SYMMETRY["float64"])


@over_configs
def test_mirror(config):
    """Only a triple product of three neighbours' directions can tell left from right: three blocks of so3."""
    mirror = np.diag([1.0, 1.0, -1.0])
    e, mirrored = energies(config, POSITIONS), energies(config, POSITIONS @ mirror)
    if config.symmetry == "so3" and config.l_max == 1:
        assert relative_error(mirrored, e) > VIOLATION
    else:
        check_close(mirrored, e, SYMMETRY["float64"])


def test_l_max_0_sees_distances_alone():
    """Scalars know how far neighbours are, vectors also where: the ablation cannot tell these two apart."""
    around = np.array([[0.0, 0, 0], [1.5, 0, 0], [-1.5, 0, 0], [0, 1.5, 0], [0, -1.5, 0]])
    bent = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 0, 1.5], [0, 1.5, 0], [0, -1.5, 0]])
    species = np.array([0, 1, 1, 1, 1])
    near = replace(CONFIGS[4], cutoff=2.0)  # the neighbours do not see each other
    flat, full = (replace(near, l_max=l_max) for l_max in (0, 1))
    check_close(energies(flat, around, species), energies(flat, bent, species), SYMMETRY["float64"])
    assert relative_error(energies(full, around, species), energies(full, bent, species)) > 1e-3


def test_envelope_and_basis():
    """One at the origin, a triple zero at the cutoff; the basis at the origin is sqrt(2/c) w / c."""
    below = np.array([1e-2, 1e-3, 1e-4])
    for p in (2, 6):
        assert reference.envelope(0.0, p) == 1 and reference.envelope(1.0, p) == 0
        third_derivative = -p * (p + 1) * (p + 2)
        check_close(reference.envelope(1 - below[:2], p) / below[:2] ** 3, [-third_derivative / 6] * 2, 0.1)
        slopes = derivative(lambda h, p=p: reference.envelope(0.5 + below + h, p), 1e-3)
        check_close(reference.envelope_derivative(0.5 + below, p), slopes, 1e-9)
    frequencies = np.pi * np.arange(1, 4)
    basis = reference.radial_basis_fwd(np.array([1e-6, 4.0, 5.0]), frequencies, 4.0, 6)
    check_close(basis[0], np.sqrt(2 / 4.0) * frequencies / 4.0, 1e-9)
    check_close(basis[1:], np.zeros((2, 3)), 1e-12)


def test_activations():
    x = np.array([-1.0, 0.0, 2.0])
    check_close(reference.activation_fwd(x, reference.SSP), np.log(0.5 * np.exp(x) + 0.5), 1e-15)
    check_close(reference.activation_fwd(x, reference.SILU), x / (1 + np.exp(-x)), 1e-15)
    check_close(reference.activation_fwd(x, reference.TANH), np.tanh(x), 1e-15)


def test_layout_of_parity_blocks():
    """[gates, even | odd] from [even | odd | odd | even]: runs merge, equal labels connect."""
    blocks, scales = reference.dense_layout("eeooooee", "eeeeoo", gain=2.0)
    assert blocks.tolist() == [[0, 2, 0, 4, 0], [6, 2, 0, 4, 8], [2, 4, 4, 2, 16]]
    check_close(scales, np.full(3, 2.0 / np.sqrt(4)), 1e-15)
    blocks, scales = reference.dense_layout("eee", "eeee", neighbours=12.0)
    assert blocks.tolist() == [[0, 3, 0, 4, 0]]
    check_close(scales, [1 / 6], 1e-15)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_features_keep_their_size(blocks):
    """With standard-normal weights the output of an untrained network is of order one."""
    x = energies(Config(features=32, blocks=blocks), POSITIONS) / SCALE[SPECIES]
    assert 0.05 < np.sqrt(np.mean(x**2)) < 20
