"""Cases of every operator of the table, and its four functions as functions of arrays.

A case is an operator with inputs and static arguments. Cotangents and tangents are random directions.
bench/gpu.py asks a card the same, where there is no pytest.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from graphs import GRAPHS, SPECIES_COUNT
from tolerances import check_close

from eqpot.backend import obstacle, to_device, to_host
from eqpot.kernels.cuda import SIMULATED
from eqpot.network.model import SCALAR_PATHS, TENSOR_PATHS, THIRD_PATHS, VECTOR_PATHS
from eqpot.network.ops import BACKENDS, ON_HOST, SIGNATURES, operators

CUTOFF = 3.0


@dataclass(frozen=True)
class Case:
    operator: str
    label: str
    inputs: tuple[np.ndarray, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the outputs
    static: tuple = ()

    def __str__(self) -> str:
        return f"{self.operator}-{self.label}"

    def random(self, what: str, shapes) -> list[np.ndarray]:
        rng = np.random.default_rng(crc32(f"{self}{what}".encode()))
        return [rng.normal(size=shape) for shape in shapes]

    def directions(self):
        """Cotangents, tangents, and tangents of the cotangents: dy, tx, tdy."""
        of_inputs = [x.shape for x in self.inputs]
        return (
            self.random("dy", self.shapes),
            self.random("tx", of_inputs),
            self.random("tdy", self.shapes),
        )


# ------------------------------------------------------------ cases


def edge_geometry_cases():
    for name, graph in GRAPHS.items():
        n_edges = len(graph.edge_vec)
        yield Case("edge_geometry", name, (graph.edge_vec,), ((n_edges,), (n_edges, 3)))


def radial_basis_cases():
    for n_edges, n_basis, p in [(40, 8, 6), (7, 1, 2), (33, 5, 3), (0, 4, 6)]:
        r = np.random.default_rng(n_edges).uniform(0.5, 1.2 * CUTOFF, n_edges)
        frequencies = np.pi * np.arange(1, n_basis + 1) + 0.1
        yield Case(
            "radial_basis",
            f"{n_edges}_edges_{n_basis}_functions_p{p}",
            (r, frequencies),
            ((n_edges, n_basis),),
            (CUTOFF, p),
        )


def activation_cases():
    rng = np.random.default_rng(1)
    for kind, name in enumerate(["ssp", "silu", "tanh"]):
        for shape in [(40, 33), (80, 33), (5, 3, 4), (1, 1), (0, 4)]:  # one is more than a thread's share
            label = f"{name}_{'x'.join(map(str, shape))}"
            yield Case("activation", label, (rng.normal(0, 2, shape),), (shape,), (kind,))
        extreme = np.array([[-800.0, -300.0, -90.0, -40.0, 0.0, 1e-12, 40.0, 90.0, 800.0]])
        yield Case("activation", f"{name}_extreme", (extreme,), (extreme.shape,), (kind,))


def dense_cases():
    whole = [(0, 5, 0, 3, 0)]
    halves = [
        (0, 2, 0, 4, 0),
        (4, 2, 0, 4, 8),
        (2, 2, 4, 3, 16),
    ]  # two blocks into one segment, one into another
    crossed = [(3, 3, 0, 2, 0), (0, 3, 2, 2, 6)]
    by_species = GRAPHS["mixed"].species_ptr
    n = by_species[-1]
    for label, shape, columns, row_ptr, blocks in [
        ("one_group", (n, 5), 3, [0, n], whole),
        ("vectors", (n, 3, 5), 3, [0, 3 * n], whole),
        ("halves", (n, 6), 7, [0, n], halves),
        ("species", (n, 6), 7, by_species, halves),
        ("species_vectors", (n, 3, 6), 4, 3 * by_species, crossed),
        ("unwritten_columns", (n, 6), 9, [0, n], halves),
        ("single", (n, 1), 1, [0, n], [(0, 1, 0, 1, 0)]),
        ("wide", (70, 33), 65, [0, 70], [(0, 33, 0, 65, 0)]),
        ("no_rows", (0, 5), 3, [0, 0], whole),
    ]:
        rng = np.random.default_rng(len(label))
        size = max(offset + k * m for _, k, _, m, offset in blocks)
        yield Case(
            "dense",
            label,
            (rng.normal(size=shape), rng.normal(size=(len(row_ptr) - 1, size))),
            ((*shape[:-1], columns),),
            (np.array(row_ptr), np.array(blocks), rng.uniform(0.5, 2, len(blocks))),
        )


def embedding_cases():
    for name, channels in [("molecule", 4), ("self_images", 1), ("mixed", 33), ("nothing", 2)]:
        graph = GRAPHS[name]
        table = np.random.default_rng(channels).normal(size=(SPECIES_COUNT, channels))
        yield Case(
            "embedding",
            f"{name}_{channels}",
            (table,),
            ((len(graph.species), channels),),
            (graph.species, graph.species_ptr),
        )


GATHERED = [("molecule", 4), ("isolated", 33), ("self_images", 1), ("mixed", 33), ("nothing", 2)]
PATH_SETS = [(0,), (0, 1), (0, 3), (0, 1, 2, 3, 4)]


def layout(in_use: tuple[int, ...], known: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """`paths` of a block that has these of the known ones; how many make scalars, vectors, second and third
    moments."""
    paths = np.full((known, 2), -1)
    orders = SCALAR_PATHS, VECTOR_PATHS, TENSOR_PATHS, THIRD_PATHS
    made = [[p for p in of if p in in_use] for of in orders]
    for present in made:
        for p in present:
            paths[p] = in_use.index(p), present.index(p)
    return paths, tuple(map(len, made))


def interaction_cases():
    for in_use in PATH_SETS:
        paths, (n_scalar, n_vector, *_) = layout(in_use, 5)
        for name, channels in [("no_edge", 4), *GATHERED]:
            graph = GRAPHS[name]
            n, n_edges = len(graph.species), len(graph.senders)
            rng = np.random.default_rng(channels)
            of_vectors = channels if set(in_use) & {2, 3, 4} else 0
            yield Case(
                "interaction",
                f"{name}_{channels}_paths_{''.join(map(str, in_use))}",
                (
                    rng.normal(size=(n, channels)),
                    rng.normal(size=(n, 3, of_vectors)),
                    rng.normal(size=(n_edges, 3)),
                    rng.normal(size=(n_edges, len(in_use) * channels)),
                ),
                ((n, n_scalar * channels), (n, 3, n_vector * channels)),
                (*graph.indices, paths),
            )


def edge_tensor_cases():
    for name, graph in GRAPHS.items():
        n_edges = len(graph.senders)
        unit = np.random.default_rng(n_edges).normal(size=(n_edges, 3))
        yield Case("edge_tensor", name, (unit,), ((n_edges, 6),))


def interaction2_cases():
    for in_use in [(0, 1, 6), (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5, 6)]:
        paths, (n_scalar, n_vector, n_tensor, _) = layout(in_use, 7)
        for name, channels in GATHERED:
            graph = GRAPHS[name]
            n, n_edges = len(graph.species), len(graph.senders)
            rng = np.random.default_rng(channels)
            shapes = (n, channels), (n, 3, channels if 5 in in_use else 0), (n_edges, 3), (n_edges, 6)
            tensor = rng.normal(size=shapes[3])
            tensor[:, 2] = -tensor[:, 0] - tensor[:, 1]
            yield Case(
                "interaction2",
                f"{name}_{channels}_paths_{''.join(map(str, in_use))}",
                (
                    *(rng.normal(size=shape) for shape in shapes[:3]),
                    tensor,
                    rng.normal(size=(n_edges, len(in_use) * channels)),
                ),
                ((n, n_scalar * channels), (n, 3, n_vector * channels), (n, 5, n_tensor * channels)),
                (*graph.indices, paths),
            )


def edge_tensor3_cases():
    for name, graph in GRAPHS.items():
        n_edges = len(graph.senders)
        unit = np.random.default_rng(n_edges).normal(size=(n_edges, 3))
        yield Case("edge_tensor3", name, (unit,), ((n_edges, 7),))


def interaction3_cases():
    for in_use in [(0, 1, 6), (0, 1, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7)]:
        paths, (*_, n_third) = layout(in_use, 8)
        for name, channels in GATHERED:
            graph = GRAPHS[name]
            n, n_edges = len(graph.species), len(graph.senders)
            rng = np.random.default_rng(channels)
            shapes = (n, channels), (n_edges, 7), (n_edges, len(in_use) * channels)
            yield Case(
                "interaction3",
                f"{name}_{channels}_paths_{''.join(map(str, in_use))}",
                tuple(rng.normal(size=shape) for shape in shapes),
                ((n, 7, n_third * channels),),
                (*graph.indices, paths),
            )


def node_products_cases():
    for n, D, with_v, with_t, with_o in [
        (9, 33, 1, 1, 1),
        (9, 33, 1, 1, 0),
        (4, 1, 1, 1, 1),
        (4, 1, 1, 1, 0),
        (5, 16, 1, 0, 0),
        (5, 3, 0, 0, 0),
        (0, 2, 1, 1, 1),
    ]:
        rng = np.random.default_rng(D)
        shapes = (n, 2 * D), (n, 3, 2 * D * with_v), (n, 5, 2 * D * with_t), (n, 7, 2 * D * with_o)
        yield Case(
            "node_products",
            f"{n}_atoms_{D}_channels{'_v' * with_v}{'_t' * with_t}{'_o' * with_o}",
            tuple(rng.normal(size=shape) for shape in shapes),
            ((n, D * (1 + with_v + 2 * with_t + 2 * with_o)), (n, 3, D * (2 * with_v + with_t + with_o))),
        )


def nonlinearity_cases():
    for n, scalars, vectors, even in [
        (9, 33, 33, 17),
        (5, 4, 0, 4),
        (5, 4, 0, 2),
        (4, 1, 1, 1),
        (0, 2, 2, 1),
    ]:
        rng = np.random.default_rng(scalars + vectors)
        s, v = rng.normal(size=(n, scalars)), rng.normal(size=(n, 3, vectors))
        g = rng.normal(size=(n, vectors + scalars))
        label = f"{scalars}_scalars_{even}_even_{vectors}_vectors"
        yield Case("gate", label, (g, v), (s.shape, v.shape), (even,))
        yield Case("norm", label, (s, v), (s.shape, v.shape), (even,))
    s, v = rng.normal(size=(6, 2)), 1e-3 * rng.normal(size=(6, 3, 2))
    yield Case("norm", "small_vectors", (s, v), (s.shape, v.shape), (1,))


def add_cases():
    for a, b, col, count in [
        ((6, 5), (6, 5), 0, 5),
        ((6, 9), (6, 4), 5, 4),
        ((6, 9), (6, 4), 3, 2),
        ((4, 3, 7), (4, 3, 7), 0, 7),
        ((0, 4), (0, 4), 0, 4),
    ]:
        rng = np.random.default_rng(col)
        label = f"{count}_of_{'x'.join(map(str, b))}_into_{'x'.join(map(str, a))}"
        yield Case("add", label, (rng.normal(size=a), rng.normal(size=b)), (a,), (col, count))


CASES = [
    *edge_geometry_cases(),
    *radial_basis_cases(),
    *activation_cases(),
    *dense_cases(),
    *embedding_cases(),
    *interaction_cases(),
    *edge_tensor_cases(),
    *interaction2_cases(),
    *edge_tensor3_cases(),
    *interaction3_cases(),
    *node_products_cases(),
    *nonlinearity_cases(),
    *add_cases(),
]
# One case of each operator that has every argument in it, for what does not depend on sizes.
TYPICAL = [
    case
    for case in CASES
    if str(case)
    in {
        "edge_geometry-molecule",
        "radial_basis-40_edges_8_functions_p6",
        "activation-silu_40x33",
        "dense-species",
        "embedding-mixed_33",
        "interaction-molecule_4_paths_01234",
        "edge_tensor-molecule",
        "interaction2-molecule_4_paths_0123456",
        "edge_tensor3-molecule",
        "interaction3-molecule_4_paths_01234567",
        "node_products-9_atoms_33_channels_v_t_o",
        "gate-33_scalars_17_even_33_vectors",
        "norm-33_scalars_17_even_33_vectors",
        "add-2_of_6x4_into_6x9",
    }
]

# On a machine without a GPU the CUDA kernels have a process of their own, with Numba's simulator.
USABLE = ["cuda"] if SIMULATED else [b for b in BACKENDS if b != "cuda" or not obstacle()]


# ------------------------------------------------------------ the four walks, as functions


class Walks:
    """An operator's functions on one backend, as functions from arrays to new arrays."""

    def __init__(self, backend: str, case: Case, dtype: str = "float64"):
        self.backend, self.dtype = backend, dtype
        self.operator, self.case = operators(backend)[case.operator], case

        names = SIGNATURES[case.operator].static
        self.static = [
            self.there(x) if isinstance(x, np.ndarray) and name not in ON_HOST else x
            for name, x in zip(names, case.static, strict=True)
        ]

    def there(self, array):
        return to_device(array, self.backend)

    def cast(self, arrays):
        return [None if x is None else self.there(np.asarray(x, self.dtype)) for x in arrays]

    def full(self, shapes, fill):
        return [self.there(np.full(shape, fill, self.dtype)) for shape in shapes]

    def fwd(self, x=None):
        x = self.cast(self.case.inputs if x is None else x)
        y = self.full(self.case.shapes, np.nan)
        self.operator.fwd(*y, *x, *self.static)
        return here(y)

    def bwd(self, dy, x=None, start=0.0, only=None):
        x = self.cast(self.case.inputs if x is None else x)
        dx = self.cotangents(x, start, only)
        self.operator.bwd(*dx, *self.cast(dy), *x, *self.static)
        return here(dx)

    def fwd_tan(self, tx):
        ty = self.full(self.case.shapes, np.nan)
        self.operator.fwd_tan(*ty, *self.cast(tx), *self.cast(self.case.inputs), *self.static)
        return here(ty)

    def bwd_tan(self, tdy, tx, dy, start=0.0, only=None):
        x = self.cast(self.case.inputs)
        tdx = self.cotangents(x, start, only)
        self.operator.bwd_tan(*tdx, *self.cast(tdy), *self.cast(tx), *self.cast(dy), *x, *self.static)
        return here(tdx)

    def cotangents(self, like, start, only):
        """Buffers of all inputs, or of one."""
        buffers = self.full([x.shape for x in like], start)
        return [b if only in (None, k) else None for k, b in enumerate(buffers)]


def here(arrays):
    return [None if x is None else to_host(x) for x in arrays]


def moved(arrays, directions, step):
    return [x + step * t for x, t in zip(arrays, directions, strict=True)]


def inner(a, b) -> float:
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


def size(a, b) -> float:
    """Scale of an inner product: what it would be without cancellation."""
    return inner([np.abs(x) for x in a], [np.abs(y) for y in b]) or 1.0


def check_all(got, expected, tolerance, names):
    for name, x, y in zip(names, got, expected, strict=True):
        check_close(x, y, tolerance, what=name)
