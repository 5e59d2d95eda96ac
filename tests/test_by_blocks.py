"""Evaluation block by block against the whole tape, and what both are said to take against what they do."""

import sys
import tracemalloc
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from operator_cases import USABLE
from potentials import OF_PAPERS, STRUCTURES, batch, structure
from potentials import TINY as SMALL
from potentials import TINY_SETTINGS as SETTINGS
from tolerances import MODEL, check_close

from eqpot import Potential
from eqpot import backend as backends
from eqpot.engines import by_blocks, recorded, taped
from eqpot.engines.by_blocks import BY_BLOCKS, RESERVE, WHOLE, needed, plan
from eqpot.engines.fused import FusedStages
from eqpot.errors import UserError
from eqpot.kernels import cuda as gpu
from eqpot.kernels import dense
from eqpot.network.model import Model, Stages
from eqpot.network.pool import Pool
from eqpot.structures.gpu_graph import GpuVerletList
from eqpot.structures.graph import Batch

on_gpu = pytest.mark.skipif("cuda" not in USABLE, reason="no GPU; `make test-sim` runs it in the simulator")
EDGES = 26  # an atom of water has as many within 4 Å
WATER = {"features": 64, "blocks": 6, "cutoff": 4.0, "symmetry": "so3", **OF_PAPERS}


def potential(backend: str, dtype: str = "float64", **settings) -> Potential:
    made = Potential.create(species=[1, 6, 8], dtype=dtype, **SMALL | settings)
    made.scale[:], made.shift[:] = [0.8, 1.0, 1.3], [-1.0, 2.0, 0.5]
    made.mean_neighbours = 5.0
    if backend == "ref":
        return made.cast(dtype, "ref")
    return made.to(backend)


def evaluated(p: Potential, graph: Batch, way: str, forces: bool = True):
    """The prediction, and the bytes that the pool came to hold."""
    pool = p.fitted.pool
    pool.clear()
    kind = FusedStages if p.backend == "cuda" else Stages
    walk = partial(taped.one_by_one if way == WHOLE else by_blocks.walk, kind=kind)
    lean = way == BY_BLOCKS or p.backend == "cuda"
    try:
        return taped.record(p.fitted, graph, forces, forces, walk, lean=lean).prediction.on("cpu"), pool.held
    finally:
        pool.release()


def poison(monkeypatch, pool: Pool) -> None:
    """Spoil what goes back to the pool: nothing may read it. Buffers are shared out as large ones are."""
    monkeypatch.setattr("eqpot.network.pool.LARGE", 256)
    give = pool.give

    def spoil(*arrays):
        for a in arrays:
            if id(a) in pool._used:
                a.fill(np.nan)
        give(*arrays)

    monkeypatch.setattr(pool, "give", spoil)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("backend", USABLE)
def test_equals_the_whole_tape(backend, settings, monkeypatch):
    p = potential(backend, **settings)
    graph = batch(p, *STRUCTURES)
    poison(monkeypatch, p.fitted.pool)
    (got, _), (expected, _) = (evaluated(p, graph, way) for way in (BY_BLOCKS, WHOLE))
    for name in ("energies", "energy", "forces"):
        check_close(getattr(got, name), getattr(expected, name), MODEL["float64"], what=name)
    periodic = ~np.isnan(graph.volume)
    check_close(got.stress[periodic], expected.stress[periodic], MODEL["float64"], what="stress")
    alone, _ = evaluated(p, graph, BY_BLOCKS, forces=False)
    assert alone.forces is None
    check_close(alone.energies, expected.energies, MODEL["float64"], what="energies alone")


@on_gpu
def test_room_for_the_graph():
    """All arrays of a neighbour list and its batch; it also needs the edges' shifts while it finds them."""
    atoms, neighbours = structure("crystal") * (2, 1, 1), GpuVerletList([1, 6, 8], 4.0, 0.5)
    graph = neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
    arrays = [*vars(neighbours).values(), *vars(graph).values()]
    there = {id(a): a.nbytes for a in arrays if hasattr(a, "nbytes")}
    model = Model(Potential.create(["H", "C", "O"], **WATER).config, 3, 20.0)
    expected = by_blocks._graph(model, len(atoms), graph.edge_count) - 12 * graph.edge_count
    assert 0.9 * expected < sum(there.values()) < 1.02 * expected


def hollow_launches(monkeypatch) -> None:
    """Arrays of "cuda" are NumPy's, and nothing is launched: what remains is what is asked for."""
    for module in (gpu, backends):
        monkeypatch.setattr(module, "SIMULATED", True)
    monkeypatch.setattr(gpu.Kernel, "__call__", lambda *_: None)
    monkeypatch.setattr(dense, "add_matmul", lambda *_: None)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_pool_holds_what_was_foretold(settings, monkeypatch):
    hollow_launches(monkeypatch)
    p = potential("cuda", "float32", **settings)
    graph = batch(p, *STRUCTURES)
    sizes = p.model, len(graph.species), graph.edge_count, "float32"
    for way in (WHOLE, BY_BLOCKS):
        for forces in (True, False):
            _, held = evaluated(p, graph, way, forces)
            assert held == by_blocks._pool(*sizes, way == BY_BLOCKS, forces)


def edges_everywhere(n: int) -> Batch:
    """A batch of the right sizes, whose numbers mean nothing."""
    E, ptr = EDGES * n, np.zeros(n + 1, np.int64)
    return Batch(
        order=np.arange(n),
        frame=np.zeros(n, np.int64),
        species=np.zeros(n, np.int64),
        species_ptr=np.array([0, n, n, n]),
        atom_counts=np.array([n]),
        volume=np.array([1.0]),
        edge_vec=np.zeros((E, 3)),
        senders=np.zeros(E, np.int64),
        receivers=np.zeros(E, np.int64),
        receiver_ptr=ptr,
        sender_perm=np.zeros(E, np.int64),
        sender_ptr=ptr.copy(),
        backend="cuda",
    )


@pytest.mark.parametrize(
    "settings", [{}, {"zbl": True}, SETTINGS["second order"]], ids=["papers", "zbl", "second order"]
)
@pytest.mark.parametrize("way", [WHOLE, BY_BLOCKS])
def test_memory_is_what_was_foretold(monkeypatch, way, settings):
    """The highest that memory stands in a call, all allocations counted by Python itself."""
    hollow_launches(monkeypatch)
    monkeypatch.setattr(by_blocks, "plan", lambda *_: way)
    p, n = Potential.create(["H", "C", "O"], device="cuda", **WATER | settings), 5000
    expected = needed(p.model, n, EDGES * n, p.dtype, way == BY_BLOCKS)
    tracemalloc.start()
    graph = edges_everywhere(n)
    kept = np.empty(by_blocks._graph(p.model, n, EDGES * n) - tracemalloc.get_traced_memory()[0], np.uint8)
    p.predict(graph, stress=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept.size > 0 and 0.98 <= expected / peak <= 1.10


def test_four_million_atoms_of_water():
    """34 kB an atom, neighbours and all, on a GPU of 141 GB; the whole tape takes more."""
    model = Model(Potential.create(["H", "O"], **WATER).config, 2, 26.0)
    for n in (1_000_000, 2_100_000, 3_000_000, 4_000_000, 4_100_000):
        by_block, whole = (needed(model, n, EDGES * n, "float32", way) for way in (True, False))
        assert by_block <= 34_000 * n < whole
    assert needed(model, 4_000_000, EDGES * 4_000_000, "float32", True) + RESERVE < 139e9
    assert needed(model, n, EDGES * n, "float32", True, forces=False) < 0.8 * by_block


def test_plan():
    p, n = Potential.create(["H", "C", "O"], **WATER), 100_000
    graph = edges_everywhere(n)
    sizes = p.model, n, EDGES * n, p.dtype
    graph_bytes = by_blocks._graph(p.model, n, EDGES * n)
    whole, by_block = (needed(*sizes, way) + RESERVE - graph_bytes for way in (False, True))
    choose = (p.model, p.fitted.pool, graph, True)
    assert plan(*choose, free=1.05 * whole) == WHOLE
    assert plan(*choose, free=0.99 * whole) == plan(*choose, free=1.05 * by_block) == BY_BLOCKS
    with pytest.raises(UserError, match="structure: 100000 atoms, 2600000 edges: expected .* found") as error:
        plan(*choose, free=0.5 * by_block)
    fit = int(str(error.value).split("about ")[1].split()[0])
    assert 0.5 * n < fit < 0.65 * n
    assert needed(p.model, fit, EDGES * fit, p.dtype, True) < 1.1 * (0.5 * by_block + graph_bytes)


def test_free_memory(monkeypatch):
    """What no one has and what CuPy's pool holds idle, within the limit that it may have been set."""
    pool = SimpleNamespace(free_bytes=lambda: 10, used_bytes=lambda: 25, get_limit=lambda: 0)
    device = SimpleNamespace(mem_info=(70, 100))
    cuda = SimpleNamespace(Device=lambda: device)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(get_default_memory_pool=lambda: pool, cuda=cuda))
    monkeypatch.setattr(backends, "SIMULATED", False)
    assert backends.free_memory() == 80
    pool.get_limit = lambda: 60
    assert backends.free_memory() == 35


@on_gpu
def test_too_little_memory(monkeypatch):
    """What fits by blocks only goes by blocks and keeps nothing; what CuPy cannot serve is said."""
    monkeypatch.setattr(recorded, "RECORDED_ROWS", -1)
    p = potential("cuda")
    graph = batch(p, *STRUCTURES)
    expected = p.predict(graph).forces
    p.fitted.pool.clear()
    sizes = p.model, len(graph.species), graph.edge_count, p.dtype
    monkeypatch.setattr(by_blocks, "free_memory", lambda: needed(*sizes, False) + RESERVE - 1)
    check_close(p.predict(graph).forces, expected, MODEL["float64"])
    assert p.fitted.pool.held == 0
    monkeypatch.setattr(by_blocks, "free_memory", lambda: RESERVE)
    with pytest.raises(UserError, match="GB needed; about 1?[0-9] atoms would fit"):
        p.predict(graph)

    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(by_blocks, "free_memory", lambda: 1e12)
    monkeypatch.setattr(p.fitted.pool, "empty", out_of_memory)
    with pytest.raises(UserError, match="structure: .* found no piece of it large enough"):
        p.predict(graph)


def test_pool():
    """New buffers waste an eighth at most, idle ones a third; they make room where memory is short."""
    pool, item = Pool(np.float32), 4
    for size in (262145, 300_000, 524_289, 3_456_789):
        before = pool.held
        pool.take((size,))
        assert size * item <= pool.held - before <= 1.125 * size * item
    pool.release()
    held, made = pool.held, pool.empty

    def short(shape, dtype):
        if pool.held:
            raise MemoryError
        return made(shape, dtype)

    pool.empty = short
    a = pool.take((2_500_000,))
    assert pool.held == held, "an idle buffer serves"
    pool.give(a)
    pool.give(a, None, np.zeros(3))
    assert pool.take((900_000,)).size == 900_000 and pool.held < 1.125 * 900_000 * item
