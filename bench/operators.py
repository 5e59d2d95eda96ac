"""Time of every operator's four functions: per edge or atom, and in operations and bytes per second.

    python bench/operators.py                          # 1 and 2 threads, water of 1536 atoms, 64 features
    python bench/operators.py --only interaction gate  # or some; results accumulate in the JSON file

Operations are counted from the formulas (`OPERATIONS`), for the operators that are arithmetic rather than
traffic, and compared with NumPy's float32 matrix product of 2048 x 2048. Bytes are those of all arrays that
a function takes, each once, compared with a copy of 256 MB. Before it is timed, every function is compared
with the reference on the same inputs in float64.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import numba
import numpy as np
from recording import Record, matrix_rate, parser
from rich.console import Console
from rich.table import Table
from workloads import structure

from eqpot.explain import PATH_OPERATIONS
from eqpot.graph import collate, frame_graph
from eqpot.ops import SIGNATURES, WALKS, operators

CHANNELS, BASIS, CUTOFF = 64, 8, 4.0
SMALL, LARGE = "acac_15", "water_1536"
TOLERANCE = 2e-5  # float32 against the reference in float64, relative to the largest number
# Multiplications and additions per row (dense: k x m of all blocks) or per edge and channel (interaction: the
# five products, their cotangents of features and weights, and of Y1, which is one of three paths only). A
# tangent moves each factor in turn.
MESSAGE, _, _, WITH_Y1 = (sum(column) for column in zip(*PATH_OPERATIONS.values(), strict=True))
OPERATIONS = {
    "dense": {"fwd": 2, "bwd": 4, "fwd_tan": 4, "bwd_tan": 8},
    "interaction": {
        "fwd": MESSAGE,
        "bwd": 2 * MESSAGE + WITH_Y1,
        "fwd_tan": 2 * MESSAGE + WITH_Y1,
        "bwd_tan": 2 * (2 * MESSAGE + WITH_Y1) + 3 * WITH_Y1,
    },
}
PER_ATOM = ("embedding", "gate", "norm", "add", "dense")


def workloads(name: str) -> dict[str, tuple[list, list, tuple]]:
    """Operator -> (inputs, shapes of its outputs, static arguments): random numbers on a real graph."""
    atoms, random = structure(name), np.random.default_rng(0)
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
    return {
        "edge_geometry": ([graph.edge_vec], [(E,), (E, 3)], ()),
        "radial_basis": ([r, np.pi * np.arange(1, B + 1)], [(E, B)], (CUTOFF, 6)),
        "activation": ([normal(E, 6 * B)], [(E, 6 * B)], (0,)),
        "dense": ([normal(n, 3, C), normal(1, C * C)], [(n, 3, C)], square),
        "embedding": ([normal(len(species), C)], [(n, C)], (graph.species, graph.species_ptr)),
        "interaction": (
            [normal(n, C), normal(n, 3, C), normal(E, 3), normal(E, 5 * C)],
            [(n, 2 * C), (n, 3, 3 * C)],
            (*indices, paths),
        ),
        "gate": ([normal(n, 2 * C), normal(n, 3, C)], [(n, C), (n, 3, C)], (C,)),
        "norm": ([normal(n, C), normal(n, 3, C)], [(n, C), (n, 3, C)], (C,)),
        "add": ([normal(n, 2 * C), normal(n, 2 * C)], [(n, 2 * C)], (0, 2 * C)),
    }


def call(operator, walk: str, inputs: list, shapes: list, static: tuple, dtype: str):
    """A function without arguments that runs one walk, and the arrays it takes; results come first."""
    random = np.random.default_rng(1)

    def numbers(shapes):
        return [random.normal(size=shape).astype(dtype) for shape in shapes]

    x = [a.astype(dtype) for a in inputs]
    like = [a.shape for a in inputs]
    results = [np.zeros(s, dtype) for s in (shapes if walk.startswith("fwd") else like)]
    others = {"fwd": [], "bwd": numbers(shapes), "fwd_tan": numbers(like)}
    others["bwd_tan"] = [*numbers(shapes), *numbers(like), *numbers(shapes)]
    arrays = [*results, *others[walk], *x]
    function = getattr(operator, walk)
    return (lambda: function(*arrays, *static)), arrays, results


def check(name: str, walk: str, inputs: list, shapes: list, static: tuple) -> float:
    """Largest error relative to the largest number, float32 against the reference in float64."""
    found = []
    for backend, dtype in (("cpu", "float32"), ("ref", "float64")):
        run, _, results = call(operators(backend)[name], walk, inputs, shapes, static, dtype)
        run()
        found.append(results)
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


def limits(threads: int) -> dict[str, float]:
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
            f"{1e6 * r['seconds']:.0f}",
            f"{1e9 * r['seconds'] / r['rows']:.0f} {r['per']}",
            "" if flops is None else f"{flops / 1e9:.1f}",
            "" if flops is None else f"{100 * flops / r['limits']['flops']:.0f} %",
            f"{bandwidth / 1e9:.1f}",
            f"{100 * bandwidth / r['limits']['bytes']:.0f} %",
        )
    return found


def main() -> None:
    options = parser(__doc__, list(SIGNATURES), 0.3, "function").parse_args()
    console, record = Console(width=130), Record()
    small, large = workloads(SMALL), workloads(LARGE)
    atoms, edges = (large[name][0][0].shape[0] for name in ("gate", "edge_geometry"))
    for threads in options.threads:
        numba.set_num_threads(threads)
        found = limits(threads)
        console.print(
            f"{threads} threads: {found['flops'] / 1e9:.0f} Gflop/s, {found['bytes'] / 1e9:.0f} GB/s"
        )
        for name in options.only:
            per = "atom" if name in PER_ATOM else "edge"
            for walk in WALKS:
                error = check(name, walk, *small[name])
                if not error <= TOLERANCE:
                    sys.exit(f"{name} {walk}: expected an error below {TOLERANCE:g}, found {error:g}")
                run, arrays, _ = call(operators("cpu")[name], walk, *large[name], "float32")
                record.add(
                    f"{name} {walk}, {threads} threads",
                    operator=name,
                    walk=walk,
                    threads=threads,
                    seconds=time_of(run, options.seconds),
                    operations=operations(name, walk, large[name][0]),
                    bytes=sum(a.nbytes for a in arrays),
                    rows=atoms if per == "atom" else edges,
                    per=per,
                    error=error,
                    limits=found,
                )
    console.print(table(list(record.results.values())))
    console.print(record.write())


if __name__ == "__main__":
    main()
