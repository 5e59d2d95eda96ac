"""Evaluation of structures that a GPU could not hold with all that the network computes; what a call takes.

A walk over the whole tape keeps the inside of all blocks. `walk` keeps what each block takes in, s and v of
the atoms, and computes the inside of one block at a time anew on the way back (T. Chen et al., Training deep
nets with sublinear memory cost, arXiv:1604.06174): less memory for a second forward pass.

What either takes is known beforehand: the same code runs with operators that do nothing, on arrays that have
a shape and no memory. From that `plan` chooses.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import numpy as np

from eqpot.backend import free_memory
from eqpot.engines import taped
from eqpot.engines.fitted import Fitted
from eqpot.engines.fused import FusedStages
from eqpot.engines.observables import Prediction
from eqpot.errors import UserError
from eqpot.kernels.simd import whole
from eqpot.network.model import Model, Stages
from eqpot.network.ops import SIGNATURES, Operator
from eqpot.network.pool import Pool
from eqpot.network.tape import Node, Tape
from eqpot.structures.graph import Batch

WHOLE, BY_BLOCKS = "whole", "by blocks"

# Bytes left free: for the workspace of cuBLAS, the code of kernels, and pieces that CuPy cannot join.
RESERVE = 1 << 28


def takes(f: Fitted, batch: Batch, forces: bool) -> bool:
    """What a GPU could not hold as a whole; UserError where it cannot hold it by blocks either."""
    return plan(f.model, f.pool, batch, forces) == BY_BLOCKS


def predict(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """Energies, and forces and stress where asked for."""
    f.pool.clear()
    try:
        return taped.record(f, batch, forces, stress, walk, lean=True).prediction.on("cpu")
    finally:
        f.pool.release()
        f.pool.clear()  # neighbours need room, and edges are others at the next step


def walk(
    model: Model,
    tape: Tape,
    p: Mapping[str, Node],
    batch: Batch,
    edge_vec: Node,
    seed: np.ndarray | None,
    kind: Callable[..., Stages] = FusedStages,
) -> Node:
    """See `taped`. What it records on the tape is gone at the end."""
    pool, inside = tape.pool, Tape(tape.operators, tape.pool, lean=True)
    outside = kind(model, p, batch)
    alone = [model.alone(k, p) for k in range(len(model.blocks))]

    def block(k: int, s: Node, v: Node) -> tuple[Node, Node, Callable[[], None]]:
        layers, b, weights = alone[k]
        stages = kind(model, weights, batch)
        h = stages.radial(inside, layers, r)
        return *stages.block(inside, b, s, v, unit, h), partial(stages.release, tape, h)

    def give(*nodes: Node) -> None:
        pool.give(*(node.value for node in nodes))

    r, unit = outside.geometry(tape, edge_vec)
    s, v = outside.embedding(inside)
    inside.forget(s, v)
    taken_in = []
    for k in range(len(alone)):
        taken_in.append((s, v))
        s, v, release = block(k, s, v)
        inside.forget(s, v)
        release()
        if seed is None:
            give(*taken_in.pop())

    x = outside.readout(inside, s)
    if seed is None:
        inside.forget(x)
        give(s, v)
        tape.forget()
        return x
    inside.reverse({x: seed}, [s])
    give(s, v)
    for k in reversed(range(len(alone))):
        before = taken_in.pop()
        *after, release = block(k, *before)
        give(*after)  # no operator reads its results on the way back
        seeds = {new: old.d for new, old in zip(after, (s, v), strict=True) if old.d is not None}
        inside.reverse(seeds, [unit, r, *(before if k else ())])
        s, v = before
        release()
        give(s, v)
    tape.reverse({r: r.d, unit: unit.d}, [edge_vec])
    give(r, unit)
    return x


# ---- what a call takes


def needed(model: Model, n: int, E: int, dtype: str, by_blocks: bool, forces: bool = True) -> int:
    """Bytes on a GPU for a call, with forces or for energies only, of n atoms with E edges: neighbours, graph
    and all arrays at work."""
    return _graph(model, n, E) + _beside(model, n, E, dtype) + _pool(model, n, E, dtype, by_blocks, forces)


def _graph(model: Model, n: int, E: int, skin: float = 0.5) -> int:
    """Of a batch: a float64 vector and three indices of each edge, four of each atom. Of `GpuVerletList`: two
    indices and two float64 vectors of each atom, four int32 of each pair up to cutoff + skin, three of each
    edge."""
    pairs = E * (1 + skin / model.config.cutoff) ** 3
    return (48 + 12) * E + (32 + 64) * n + math.ceil(16 * pairs)


def _beside(model: Model, n: int, E: int, dtype: str) -> int:
    """Of what is in float64 after the network: forces, energies, virials; of edge vectors in its precision
    before; and of the ZBL term, which is added to forces and dE/d edge_vec."""
    zbl = 48 * E + 56 * n if model.config.zbl else 0
    return 3 * np.dtype(dtype).itemsize * E + 120 * n + zbl


@lru_cache(maxsize=256)
def _pool(model: Model, n: int, E: int, dtype: str, by_blocks: bool, forces: bool) -> int:
    """Of all buffers that a fresh pool comes to hold."""
    if model.config.isolated_atoms:
        n += model.n_species
    pool, batch = _HollowPool(dtype), _hollow_batch(model, n, E)
    tape = Tape(dict.fromkeys(SIGNATURES, NOTHING), pool, lean=True)
    p = {name: Node(_hollow(shape, dtype)) for name, shape in model.shapes().items()}
    edge_vec, seed = Node(_hollow((E, 3), dtype)), _hollow((n, 1), dtype)
    kind = partial(FusedStages, operator=NOTHING)
    (walk if by_blocks else taped.one_by_one)(model, tape, p, batch, edge_vec, seed if forces else None, kind)
    return pool.held


def _nothing(*_: object) -> None:
    """What an operator does where only sizes matter."""


NOTHING = Operator("nothing", _nothing, _nothing, _nothing, _nothing)


def _hollow(shape: tuple[int, ...], dtype: object) -> np.ndarray:
    """An array all of whose numbers are in one place."""
    return np.broadcast_to(np.zeros((), dtype), shape)


class _HollowPool(Pool):
    def __init__(self, dtype: str):
        super().__init__(np.dtype(dtype))
        self.empty = _hollow

    def full(self, shape: tuple[int, ...], value: float) -> np.ndarray:
        return self.take(shape)


def _hollow_batch(model: Model, n: int, E: int) -> Batch:
    of_atoms, of_edges, ptr = (_hollow((size,), np.int64) for size in (n, E, n + 1))
    return Batch(
        order=of_atoms,
        frame=of_atoms,
        species=of_atoms,
        species_ptr=np.zeros(model.n_species + 1, np.int64),
        atom_counts=np.array([n]),
        volume=np.array([np.nan]),
        edge_vec=_hollow((E, 3), np.float64),
        senders=of_edges,
        receivers=of_edges,
        receiver_ptr=ptr,
        sender_perm=of_edges,
        sender_ptr=ptr,
    )


# ---- the choice


def plan(model: Model, pool: Pool, batch: Batch, forces: bool = True, free: float | None = None) -> str:
    """How to evaluate a batch on a GPU, WHOLE or BY_BLOCKS, by an idle pool's memory and `free` bytes more,
    by default those of the GPU at work.

    UserError where neither fits.
    """
    n, E, dtype = len(batch.species), batch.edge_count, pool.dtype.name
    about = model, _rounded(n), _rounded(E), dtype
    if _pool(*about, False, forces) <= pool.held:  # there from calls before: nothing to ask the GPU
        return WHOLE
    room = _room(model, pool, batch, free) - RESERVE
    if needed(*about, False, forces) <= room:
        return WHOLE
    if needed(model, n, E, dtype, True, forces) <= room:
        return BY_BLOCKS
    raise too_large(model, pool, batch, forces, free)


def too_large(
    model: Model, pool: Pool, batch: Batch, forces: bool = True, free: float | None = None
) -> UserError:
    """That the batch does not fit; `free` as for `plan`."""
    n, E = len(batch.species), batch.edge_count
    room = _room(model, pool, batch, free)
    least = needed(model, n, E, pool.dtype.name, True, forces) + RESERVE
    found = f"{least / 1e9:.1f} GB needed; about {int(n * room / least)} atoms would fit"
    if least <= room:
        found = f"no piece of it large enough for an array, with {least / 1e9:.1f} GB needed in all"
    return UserError(
        f"structure: {n} atoms, {E} edges: expected to fit into {room / 1e9:.1f} GB of free GPU memory, "
        f"found {found}"
    )


def _room(model: Model, pool: Pool, batch: Batch, free: float | None) -> float:
    """Bytes for a batch and its call: free ones, the pool's, and those that its graph has already."""
    graph = _graph(model, len(batch.species), batch.edge_count) if batch.backend == "cuda" else 0
    return (free_memory() if free is None else free) + pool.held + graph


def _rounded(size: int) -> int:
    """Up, by a thirty-second or 16 at most: sizes vary from call to call, what they take is remembered."""
    return whole(size, 1 << max(size.bit_length() - 6, 4))
