"""All interaction blocks and the readout as one operator: the network of `eqpot.network` as it is trained.

    energies[n, 1]  <-  unit[E, 3], h[E, .] (last hidden layer of the radial network), weights

Operator by operator, a training step on a small batch is some hundred calls, each reading and writing whole
arrays, among them w[E, 5 C]. Here each walk of the tape is one compiled call. It goes through the network in
stages, in which every part of the atoms is worked on by itself: the edges of a block, then its matrices and
its gate. The weights w = h W of an edge live in registers only, and are formed again in each walk. Values are
kept between the walks, since matrices and gate need them again.

Rows of an atom, and how edges are walked, as in `walks`. Arrays of `Memory` hold four slots: value, cotangent
d, tangent t, and td, the tangent of d. Matrices are linear: the walks for values and tangents, and the two
backward ones, are the same code on another slot. Weights have no tangent, so grad W moves by

    tdW = x^T tdy + tx^T dy                       for every matrix y = x W

With q_p = dE/dw_p of an edge, the radial network's last layer gives dh = W q and dW = h^T q. The fourth walk
is the second with all of M, u, h and Y moving, without dY, which no weight needs. It takes the tangents of an
edge and of its reverse to be alike: th the same, tY of opposite sign.

Parts of the atoms depend on the batch alone and sums over parts are taken in order: the same bits for any
number of threads.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from .activation import SILU, slope, slope_curvature, value
from .blocks_edges import TD, D, T, V, edges
from .blocks_weights import ends, pack_radial, tile, turn, unpack_radial
from .compile import kernel, routine
from .gate import gate_row, gate_row_bwd, gate_row_bwd_tan, gate_row_fwd_tan
from .walks import (
    BACK,
    KEEP,
    OUT,
    SELF,
    add_leading,
    clear,
    mix,
)
from .walks2 import (
    factors_back,
    factors_of,
    multiply_rows,
    multiply_rows_back,
    multiply_rows_back_tan,
    multiply_rows_tan,
    take,
    take_back,
)
from .walks3 import set_third, set_third_tan


class Memory(NamedTuple):
    """What the walks leave for each other."""

    h: np.ndarray  # [K, E, 2, H]: value, tangent
    dh: np.ndarray  # [K, E, 2, H]: cotangent and its tangent
    unit: np.ndarray  # [2, E, 3]: value, tangent
    x: np.ndarray  # [4, K + 1, n, 4, C]
    u: np.ndarray  # [4, K, n, 4, C]
    m: np.ndarray  # [4, K, n, M, C], M rows of messages, see `walks` and `walks2`
    p: np.ndarray  # [4, K, n, 5, C]
    y: np.ndarray  # [4, n, 1, R]: hidden numbers of the readout
    energies: np.ndarray  # [4, n]
    W: np.ndarray  # [K, C / lanes, H, 5 lanes]: last layer of the radial network
    tdW: np.ndarray  # [parts, K, C / lanes, H, 5 lanes]
    turned: np.ndarray  # transposed matrices
    held: np.ndarray  # [parts, 4 + H, C]: scratch


class Second(NamedTuple):
    """What filters of order 2 and products on atoms need besides, see `walks2`; None where there are neither:
    then code for them is not even compiled."""

    filters: np.ndarray  # [K]: whether a block has paths of order 2
    products: bool  # on atoms
    vectors: int  # columns of the products' factors, 0 where there are none
    tensors: int
    thirds: int
    W: np.ndarray  # [K, C / lanes, H, 2 lanes]: last layer of the radial network, of their two paths
    tdW: np.ndarray  # [parts, K, C / lanes, H, 2 lanes]
    a: np.ndarray  # [4, K, n, 9, 2 D], or more rows with filters of order 3, see `walks3`
    b: np.ndarray  # [4, K, n, 4, 4 D], or 6 D


class Third(NamedTuple):
    """What filters of order 3 need besides, see `walks3`; None where there are none, as `Second`."""

    o: np.ndarray  # [2, E, 7]: O of the edges, value and tangent
    W: np.ndarray  # [K, C / lanes, H, lanes]
    tdW: np.ndarray  # [parts, K, C / lanes, H, lanes]


# ---- atoms


@routine
def _see(layout, graph, mem, weights, slot, k, first, last):
    """u, what the neighbours of atoms first : last see of their x."""
    u, x, n = mem.u[slot, k], mem.x[slot, k], last - first
    clear(u, first, n)
    for of_v in range(2):
        mix(u, first, x, first, first, n, layout, k, SELF + of_v, weights, graph.species_ptr)


@routine
def _unsee(layout, graph, mem, slot, k, first, last):
    """From u's cotangent back to x's."""
    u, x, n = mem.u[slot, k], mem.x[slot, k], last - first
    for of_v in range(2):
        mix(x, first, u, first, first, n, layout, k, BACK + SELF + of_v, mem.turned, graph.species_ptr)


@routine
def _products(layout, graph, second, m, p, weights, slot, k, first, last):
    """From the messages of block k to the products on the atom, and to what the gate takes."""
    a, b, n, by_species = second.a[slot, k], second.b[slot, k], last - first, graph.species_ptr
    factors_of(a, first, m, first, first, n, layout, k, weights, by_species)
    if slot == V:
        multiply_rows(b[first:last], a[first:last], second.vectors, second.tensors, second.thirds)
    else:
        held = second.a[V, k]
        multiply_rows_tan(
            b[first:last], a[first:last], held[first:last], second.vectors, second.tensors, second.thirds
        )
    take(p, first, b, first, first, n, layout, k, weights, by_species)


@routine
def _products_back(layout, graph, second, m, p, turned, slot, k, first, last):
    """The way back, from p's cotangent to the messages'."""
    a, b, n, by_species = second.a[slot, k], second.b[slot, k], last - first, graph.species_ptr
    take_back(b, first, p, first, first, n, layout, k, turned, by_species)
    held = second.a[V, k][first:last]
    if slot == D:
        multiply_rows_back(a[first:last], b[first:last], held, second.vectors, second.tensors, second.thirds)
    else:
        multiply_rows_back_tan(
            *(a[first:last], b[first:last], second.a[T, k][first:last], second.b[D, k][first:last]),
            *(held, second.vectors, second.tensors, second.thirds),
        )
    factors_back(m, first, a, first, first, n, layout, k, turned, by_species)


@routine
def _rows_forward(layout, flat, graph, mem, second, weights, part, slot, k, first, last):
    """From the messages of block k to its output."""
    with_v, next_v = layout.with_v[k], layout.with_v[k + 1]
    m, p, x, by_species = mem.m[slot, k], mem.p[slot, k], mem.x[slot, k], graph.species_ptr
    n, extra = last - first, layout.residual[k]
    clear(p, first, n)
    for of_v in range(2):
        mix(p, first, m, first, first, n, layout, k, OUT + of_v, weights, by_species)
        mix(p, first, x, first, first, n, layout, k, KEEP + of_v, weights, by_species)
    if second is not None:  # noqa: SIM102 - what hangs on this alone is not even compiled
        if second.products:
            _products(layout, graph, second, m, p, weights, slot, k, first, last)
    if extra:
        for d in range(4 if with_v and next_v else 1):
            add_leading(p, 5 * first + 1 + d, x, 4 * first + d, n, extra if d == 0 else x.shape[2])

    held, n_even, C = mem.held[part], layout.n_even[k], x.shape[2]
    Cv, rows = (C, 3) if next_v else (0, 0)
    out, p, tp = mem.x[slot, k + 1], mem.p[V, k], mem.p[T, k]
    for i in range(first, last):
        s, v = out[i, 0], out[i, 1 : 1 + rows]
        at = p[i, 0][:Cv], p[i, 1], p[i, 2 : 2 + rows]
        if slot == V:
            gate_row(s, v, at[0], at[1], at[2], n_even, held)
        else:
            t = tp[i, 0][:Cv], tp[i, 1], tp[i, 2 : 2 + rows]
            gate_row_fwd_tan(s, v, t[0], t[1], t[2], at[0], at[1], at[2], n_even, held)

    if k + 1 == layout.n_even.size:
        _read_out(layout, flat, graph, mem, weights, slot, first, last)


@routine
def _read_out(layout, flat, graph, mem, weights, slot, first, last):
    """Energies of atoms first : last, or their tangents."""
    y, y0 = mem.y[slot], mem.y[V]
    K, n = layout.n_even.size, last - first
    clear(y, first, n)
    mix(y, first, mem.x[slot, K], first, first, n, layout, K, np.int64(SELF), weights, graph.species_ptr)
    for i in range(first, last):
        energy = y.dtype.type(0)
        for c in range(flat.features // 2):
            a = value(y[i, 0, c], SILU) if slot == V else slope(y0[i, 0, c], SILU) * y[i, 0, c]
            energy += a * weights[flat.readout + c]
        mem.energies[slot, i] = flat.readout_factor * energy


@routine
def _rows_backward(layout, flat, graph, mem, second, weights, part, slot, k, first, last):
    """From the cotangent of block k's output to those of its messages, and of its input where no neighbour
    takes part. The last block's output first gets its own from the energies."""
    if k == layout.n_even.size - 1:
        _readout_backward(layout, flat, graph, mem, weights, slot, first, last)
    with_v, next_v = layout.with_v[k], layout.with_v[k + 1]
    m, p, x, by_species = mem.m[slot, k], mem.p[slot, k], mem.x[slot, k], graph.species_ptr
    n, extra, C = last - first, layout.residual[k], x.shape[2]
    held, n_even = mem.held[part], layout.n_even[k]
    Cv, rows = (C, 3) if next_v else (0, 0)
    clear(p, first, n)
    d_out, td_out, at, t_at = mem.x[D, k + 1], mem.x[TD, k + 1], mem.p[V, k], mem.p[T, k]
    for i in range(first, last):
        d = d_out[i, 0], d_out[i, 1 : 1 + rows]
        g = at[i, 0][:Cv], at[i, 1], at[i, 2 : 2 + rows]
        to = p[i, 0][:Cv], p[i, 1], p[i, 2 : 2 + rows]
        if slot == D:
            gate_row_bwd(to[0], to[1], to[2], d[0], d[1], g[0], g[1], g[2], n_even, held)
        else:
            td = td_out[i, 0], td_out[i, 1 : 1 + rows]
            t = t_at[i, 0][:Cv], t_at[i, 1], t_at[i, 2 : 2 + rows]
            gate_row_bwd_tan(
                *(to[0], to[1], to[2], td[0], td[1], t[0], t[1], t[2]),
                *(d[0], d[1], g[0], g[1], g[2], n_even, held),
            )

    clear(m, first, n)
    clear(x, first, n)
    for of_v in range(2):
        mix(m, first, p, first, first, n, layout, k, BACK + OUT + of_v, mem.turned, by_species)
        mix(x, first, p, first, first, n, layout, k, BACK + KEEP + of_v, mem.turned, by_species)
    if second is not None:  # noqa: SIM102 - what hangs on this alone is not even compiled
        if second.products:
            _products_back(layout, graph, second, m, p, mem.turned, slot, k, first, last)
    if extra:
        for d in range(4 if with_v and next_v else 1):
            add_leading(x, 4 * first + d, p, 5 * first + 1 + d, n, extra if d == 0 else C)


@routine
def _readout_backward(layout, flat, graph, mem, weights, slot, first, last):
    """From the energies' cotangents to that of the last block's output."""
    y, K, de = mem.y, layout.n_even.size, mem.energies
    for i in range(first, last):
        for c in range(flat.features // 2):
            a = flat.readout_factor * weights[flat.readout + c]
            f1, f2 = slope_curvature(y[V, i, 0, c], SILU)
            moved = f2 * y[T, i, 0, c] * de[D, i] if slot == TD else y.dtype.type(0)
            y[slot, i, 0, c] = a * (f1 * de[slot, i] + moved)
    x, n = mem.x[slot, K], last - first
    clear(x, first, n)
    mix(x, first, y[slot], first, first, n, layout, K, np.int64(BACK + SELF), mem.turned, graph.species_ptr)


# ---- the four walks


@routine
def _enter(energies, unit, h, weights, layout, flat, graph, mem, second, third, part, slot, first, last):
    """What a walk starts from."""
    if slot == TD:
        mem.tdW[part] = 0
        if second is not None:
            second.tdW[part] = 0
        if third is not None:
            third.tdW[part] = 0
    if slot % 2:
        for i in range(first, last):
            mem.energies[slot, i] = energies[i, 0]
        return
    companion = slot // T
    for e in range(graph.receiver_ptr[first], graph.receiver_ptr[last]):
        for d in range(3):
            mem.unit[companion, e, d] = unit[e, d]
        for k in range(layout.n_even.size):
            a, b = flat.radial_columns[k, 0], flat.radial_columns[k, 1]
            for q in range(b - a):
                mem.h[k, e, companion, q] = h[e, a + q]
    if third is not None:
        lo, hi, o = graph.receiver_ptr[first], graph.receiver_ptr[last], third.o
        if slot == V:
            set_third(o[0], mem.unit[0], lo, hi)
        else:
            set_third_tan(o[1], mem.unit[1], mem.unit[0], lo, hi)
    x = mem.x[slot, 0]
    clear(x, first, last - first)
    for i in range(first, last if slot == V else first):
        at = flat.embedding + graph.species[i] * flat.features
        for c in range(flat.features):
            x[i, 0, c] = weights[at + c]


@routine
def _leave(energies, h, layout, flat, graph, mem, slot, first, last):
    """Hand over what a walk has found."""
    if slot % 2 == 0:
        for i in range(first, last):
            energies[i, 0] = mem.energies[slot, i]
        return
    for e in range(graph.receiver_ptr[first], graph.receiver_ptr[last]):
        for k in range(layout.n_even.size):
            a, b = flat.radial_columns[k, 0], flat.radial_columns[k, 1]
            for q in range(b - a):
                h[e, a + q] += mem.dh[k, e, slot // TD, q]


# One routine for each walk: LLVM finds registers for one body of loops at a time. It is told whether there
# are vectors on either side: else a walk takes a twentieth longer.


@routine
def _part(energies, unit, h, weights, layout, flat, graph, mem, second, third, part, slot, stage):
    """One block, for one part of the atoms: the edges, and the atoms' own numbers as far as no neighbour is
    needed."""
    first, last, K = graph.parts[part], graph.parts[part + 1], layout.n_even.size
    if stage == 0:
        _enter(energies, unit, h, weights, layout, flat, graph, mem, second, third, part, slot, first, last)
    if slot % 2 == 0:
        if stage > 0:
            edges(unit, graph, layout, mem, second, third, part, slot, stage - 1, first, last)
            _rows_forward(layout, flat, graph, mem, second, weights, part, slot, stage - 1, first, last)
        if stage < K:
            _see(layout, graph, mem, weights, slot, stage, first, last)
    else:
        if stage > 0:
            edges(unit, graph, layout, mem, second, third, part, slot, K - stage, first, last)
            _unsee(layout, graph, mem, slot, K - stage, first, last)
        if stage < K:
            _rows_backward(layout, flat, graph, mem, second, weights, part, slot, K - stage - 1, first, last)
    if stage == K:
        _leave(energies, h, layout, flat, graph, mem, slot, first, last)


@routine
def _matrix(gradient, weights, layout, flat, graph, mem, second, third, slot, task):
    """Before the first walk, matrices as the walks take them; after the last, their gradients."""
    K, tiles = layout.n_even.size, flat.tiles.shape[0]
    if slot == V and task < K:
        pack_radial(mem.W, weights, flat, task, np.int64(0), np.int64(5))
        if second is not None:
            pack_radial(second.W, weights, flat, task, np.int64(5), np.int64(2))
        if third is not None:
            pack_radial(third.W, weights, flat, task, np.int64(7), np.int64(1))
    elif slot == V:
        turn(mem.turned, weights, flat.turns, task - K)
    elif task < K:
        unpack_radial(gradient, mem.tdW, flat, task, np.int64(0), np.int64(5))
        if second is not None:
            unpack_radial(gradient, second.tdW, flat, task, np.int64(5), np.int64(2))
        if third is not None:
            unpack_radial(gradient, third.tdW, flat, task, np.int64(7), np.int64(1))
    elif task < K + tiles:
        tile(gradient, layout, flat, graph, mem, second, task - K)
    else:
        ends(gradient, flat, graph, mem)


@kernel
def blocks_walk_cpu(slot, energies, unit, h, gradient, weights, layout, flat, graph, mem, second, third):
    """One walk: energies[n, 1], unit[E, 3] and h[E, .] stand for the arrays of that slot.

    V and T read unit and h and write energies; D and TD read energies and add to unit (D only) and h; TD adds
    to the gradient of the weights.
    """
    K, parts = layout.n_even.size, graph.parts.size - 1
    before, after = K + flat.turns.shape[0], K + flat.tiles.shape[0] + 1
    for stage in range(-1, K + 2):
        if stage == -1:
            tasks = before if slot == V else 0
        elif stage <= K:
            tasks = parts
        else:
            tasks = after if slot == TD else 0
        for task in prange(tasks):
            if stage == -1 or stage > K:
                _matrix(gradient, weights, layout, flat, graph, mem, second, third, slot, np.int64(task))
            else:
                _part(
                    energies,
                    unit,
                    h,
                    weights,
                    layout,
                    flat,
                    graph,
                    mem,
                    second,
                    third,
                    np.int64(task),
                    slot,
                    np.int64(stage),
                )
