"""Time of every operator's four functions: per edge or atom, and in operations and bytes per second.

    python bench/operators.py                          # 1 and 2 threads, water of 1536 atoms, 64 features
    python bench/operators.py --only interaction gate  # or some; results accumulate in the JSON file

Operations are counted from the formulas (`OPERATIONS`), for the operators that are arithmetic rather than
traffic, and compared with NumPy's float32 product of 2048 x 2048. Bytes are those of all arrays that a
function takes, each once, compared with a copy of 256 MB. Before it is timed, every function is compared with
the reference on the same inputs in float64.

`gpu.py` asks the same of a card. There the time is that of the kernels alone, however long their launches
take, and `convolution` is timed, too, which evaluates in place of the radial network's last `dense` and of
`interaction` or, as `convolution2` and `convolution3`, of `interaction2` and 3. It has no reference of its
own (its test makes one of these) and is compared with itself in float64.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import numba
import numpy as np
from ase import Atoms
from recording import Record, matrix_rate, parser
from rich.console import Console
from rich.table import Table
from workloads import need, structure

from eqpot.backend import to_device, to_host
from eqpot.kernels.cuda import SIMULATED
from eqpot.network.model import PATHS
from eqpot.network.ops import ON_HOST, SIGNATURES, WALKS, Operator, Signature, convolution, operators
from eqpot.network.steps import PATH_OPERATIONS
from eqpot.structures.graph import collate, frame_graph

CHANNELS, BASIS, CUTOFF = 4 if SIMULATED else 64, 8, 4.0
SMALL, LARGE = "acac_15", "water_1536"
TOLERANCE = 2e-5  # float32 against the reference in float64, relative to the largest number
CONVOLUTION = Signature(
    "convolution",
    ("ms", "mv", "mt", "mo"),
    ("s", "v", "unit", "r"),
    ("h", "dh", "W", "senders", "receiver_ptr", "paths", "first", "scale"),
)
ARGUMENTS = SIGNATURES | dict.fromkeys(("convolution", "convolution2", "convolution3"), CONVOLUTION)


def products(paths: tuple[str, ...]) -> tuple[int, int]:
    """Operations of their messages, and of those among them that hold the direction."""
    message, _, _, with_direction = zip(*(PATH_OPERATIONS[path] for path in paths), strict=True)
    return sum(message), sum(with_direction)


def fused(paths: tuple[str, ...]) -> dict[str, int]:
    """The convolution's operations: it makes its weights from BASIS numbers of each edge, going back their
    slopes, too, and of the cotangents of the weights only their sum with the slopes."""
    (message, with_direction), weights = products(paths), 2 * len(paths) * BASIS
    return {
        "fwd": weights + message,
        "bwd": 2 * weights + 2 * message + with_direction + 2 * len(paths),
    }


# Multiplications and additions per row (dense: k x m of all pieces) or per edge and channel (interaction: the
# five products, their cotangents of features and weights, and of Y1, which is one of three paths only). A
# tangent moves each factor in turn.
MESSAGE, WITH_Y1 = products(PATHS[:5])
OPERATIONS = {
    "dense": {"fwd": 2, "bwd": 4, "fwd_tan": 4, "bwd_tan": 8},
    "interaction": {
        "fwd": MESSAGE,
        "bwd": 2 * MESSAGE + WITH_Y1,
        "fwd_tan": 2 * MESSAGE + WITH_Y1,
        "bwd_tan": 2 * (2 * MESSAGE + WITH_Y1) + 3 * WITH_Y1,
    },
    "convolution": fused(PATHS[:5]),
    "convolution2": fused(PATHS[:7]),
    "convolution3": fused(PATHS),
}
PER_ATOM = ("embedding", "node_products", "gate", "norm", "add", "dense")


def workloads(atoms: Atoms) -> dict[str, Callable[[], tuple[list, list, tuple]]]:
    """Operator -> what makes inputs, shapes of outputs, static arguments: random numbers on a real graph."""
    random = np.random.default_rng(0)
    species = sorted(set(atoms.numbers.tolist()))
    graph = collate(
        [frame_graph(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc, species, CUTOFF)], len(species)
    )
    n, E, C, B = len(atoms), graph.edge_count, CHANNELS, BASIS
    indices = (graph.senders, graph.receivers, graph.receiver_ptr, graph.sender_perm, graph.sender_ptr)
    paths = np.array([(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)])
    square = (np.array([0, 3 * n]), np.array([(0, C, 0, C, 0)]), np.array([C**-0.5]))

    def normal(*shape):
        return random.normal(size=shape)

    r = np.linalg.norm(graph.edge_vec, axis=1)
    messages, messages2 = [(n, 2 * C), (n, 3, 3 * C)], [(n, 2 * C), (n, 3, 4 * C), (n, 5, C)]
    paths2, D = np.array([*paths.tolist(), (5, 3), (6, 0)]), C // 2
    paths3, third = np.array([*paths2.tolist(), (7, 0)]), (n, 7, C)

    def seen() -> list:
        return [normal(n, C), normal(n, 3, C), normal(E, 3), r]

    def radial(paths: np.ndarray) -> tuple:
        h, dh, W = normal(E, B), normal(E, B), normal(B, len(paths) * C)
        return h, dh, W, graph.senders, graph.receiver_ptr, paths, 0, 1.0

    return {
        "edge_geometry": lambda: ([graph.edge_vec], [(E,), (E, 3)], ()),
        "radial_basis": lambda: ([r, np.pi * np.arange(1, B + 1)], [(E, B)], (CUTOFF, 6)),
        "activation": lambda: ([normal(E, 6 * B)], [(E, 6 * B)], (0,)),
        "dense": lambda: ([normal(n, 3, C), normal(1, C * C)], [(n, 3, C)], square),
        "embedding": lambda: ([normal(len(species), C)], [(n, C)], (graph.species, graph.species_ptr)),
        "interaction": lambda: (
            [normal(n, C), normal(n, 3, C), normal(E, 3), normal(E, 5 * C)],
            messages,
            (*indices, paths),
        ),
        "edge_tensor": lambda: ([normal(E, 3)], [(E, 6)], ()),
        "interaction2": lambda: (
            [normal(n, C), normal(n, 3, C), normal(E, 3), normal(E, 6), normal(E, 7 * C)],
            messages2,
            (*indices, paths2),
        ),
        "edge_tensor3": lambda: ([normal(E, 3)], [(E, 7)], ()),
        "interaction3": lambda: (
            [normal(n, C), normal(E, 7), normal(E, 8 * C)],
            [third],
            (*indices, paths3),
        ),
        "node_products": lambda: (
            [normal(n, 2 * D), normal(n, 3, 2 * D), normal(n, 5, 2 * D), normal(n, 7, 2 * D)],
            [(n, 6 * D), (n, 3, 4 * D)],
            (),
        ),
        "gate": lambda: ([normal(n, 2 * C), normal(n, 3, C)], [(n, C), (n, 3, C)], (C,)),
        "norm": lambda: ([normal(n, C), normal(n, 3, C)], [(n, C), (n, 3, C)], (C,)),
        "add": lambda: ([normal(n, 2 * C), normal(n, 2 * C)], [(n, 2 * C)], (0, 2 * C)),
        "convolution": lambda: (seen(), [*messages, (n, 5, 0), (n, 7, 0)], radial(paths)),
        "convolution2": lambda: (seen(), [*messages2, (n, 7, 0)], radial(paths2)),
        "convolution3": lambda: (seen(), [*messages2, third], radial(paths3)),
    }


def operator(name: str, backend: str) -> Operator:
    return operators(backend)[name] if name in SIGNATURES else convolution()


def call(name: str, backend: str, walk: str, inputs: list, shapes: list, static: tuple, dtype: str):
    """A function without arguments that runs one walk, and the arrays it takes; results come first."""
    random = np.random.default_rng(1)

    def there(array):
        return to_device(array.astype(dtype) if array.dtype.kind == "f" else array, backend)

    def numbers(shapes):
        return [there(random.normal(size=shape)) for shape in shapes]

    like = [a.shape for a in inputs]
    results = [there(np.zeros(s)) for s in (shapes if walk.startswith("fwd") else like)]
    others = {"fwd": [], "bwd": numbers(shapes), "fwd_tan": numbers(like)}
    others["bwd_tan"] = [*numbers(shapes), *numbers(like), *numbers(shapes)]
    static = [
        there(x) if isinstance(x, np.ndarray) and argument not in ON_HOST else x
        for argument, x in zip(ARGUMENTS[name].static, static, strict=True)
    ]
    arrays = [*results, *others[walk], *map(there, inputs)]
    function = getattr(operator(name, backend), walk)
    return (lambda: function(*arrays, *static)), [*arrays, *static], results


def check(name: str, backend: str, walk: str, inputs: list, shapes: list, static: tuple) -> float:
    """Largest error relative to the largest number, float32 against the reference in float64."""
    found = []
    for where, dtype in ((backend, "float32"), ("ref" if name in SIGNATURES else backend, "float64")):
        run, _, results = call(name, where, walk, inputs, shapes, static, dtype)
        run()
        found.append([to_host(result) for result in results])
    pairs = zip(*found, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs if b.size and np.abs(b).max())


def time_of(action, seconds: float) -> float:
    action()
    times = []
    while len(times) < 5 or sum(times) < seconds:
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return median(times)


def cpu_limits(threads: int) -> dict[str, float]:
    """Operations per second of a matrix product, bytes per second of a copy (read and written)."""
    x = np.ones(2**25, np.float32)
    y = np.empty_like(x)

    @numba.njit(parallel=True)
    def copy(y, x):
        for k in numba.prange(x.size):
            y[k] = x[k]

    return {"flops": matrix_rate(threads), "bytes": 2 * x.nbytes / time_of(lambda: copy(y, x), 0.3)}


def operations(name: str, walk: str, inputs: list) -> float | None:
    """Counted operations of one call."""
    if name not in OPERATIONS:
        return None
    count = OPERATIONS[name][walk]
    if name == "dense":
        return count * inputs[0].size * CHANNELS
    return count * inputs[2].shape[0] * CHANNELS


def short(x: float) -> str:
    return f"{x:.0f}" if x >= 10 else f"{x:.2g}"


def table(rows: list[dict]) -> Table:
    found = Table(title=f"Operators; {rows[0]['machine']['cpu']}", title_justify="left")
    found.add_column("")
    for heading in ("threads", "µs", "ns per", "Gflop/s", "of peak", "GB/s", "of a copy"):
        found.add_column(heading, justify="right")
    for r in rows:
        flops = None if r["operations"] is None else r["operations"] / r["seconds"]
        bandwidth = r["bytes"] / r["seconds"]
        found.add_row(
            f"{r['operator']} {r['walk']}",
            f"{r['threads']}",
            short(1e6 * r["seconds"]),
            f"{short(1e9 * r['seconds'] / r['rows'])} {r['per']}",
            "" if flops is None else f"{flops / 1e9:.1f}",
            "" if flops is None else f"{100 * flops / r['limits']['flops']:.0f} %",
            f"{bandwidth / 1e9:.1f}",
            f"{100 * bandwidth / r['limits']['bytes']:.0f} %",
        )
    return found


def main() -> None:
    options = parser(__doc__, list(SIGNATURES), 0.3, "function").parse_args()
    need(SMALL, LARGE)
    console, record = Console(width=130), Record()
    small, large = workloads(structure(SMALL)), workloads(structure(LARGE))
    atoms, edges = (large[name]()[0][0].shape[0] for name in ("gate", "edge_geometry"))
    for threads in options.threads:
        numba.set_num_threads(threads)
        limits = cpu_limits(threads)
        where = f"{threads} threads"
        console.print(f"{where}: {limits['flops'] / 1e9:.0f} Gflop/s, {limits['bytes'] / 1e9:.0f} GB/s")
        for name in options.only:
            per, (inputs, shapes, static) = "atom" if name in PER_ATOM else "edge", large[name]()
            for walk in WALKS:
                error = check(name, "cpu", walk, *small[name]())
                if not error <= TOLERANCE:
                    sys.exit(f"{name} {walk}: expected an error below {TOLERANCE:g}, found {error:g}")
                run, arrays, _ = call(name, "cpu", walk, inputs, shapes, static, "float32")
                record.add(
                    f"{name} {walk}, {where}",
                    operator=name,
                    walk=walk,
                    threads=threads,
                    seconds=time_of(run, options.seconds),
                    operations=operations(name, walk, inputs),
                    bytes=sum(getattr(a, "nbytes", 0) for a in arrays),
                    rows=atoms if per == "atom" else edges,
                    per=per,
                    error=error,
                    limits=limits,
                )
                record.write()
    console.print(table(list(record.results.values())))
    console.print(record.write())


if __name__ == "__main__":
    main()
