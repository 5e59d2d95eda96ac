"""Energies and their derivatives by the edge vectors, in one compiled call: the network of `eqpot.network` as
it is evaluated, not trained.

Operator by operator, every array is made whole and kept. Here the same arithmetic is cut by atoms: a few
receivers at a time go through edges, matrices and gate while their numbers are in the cache, so that nothing
wider than the features themselves is stored, and the radial network's last layer w[5, C] = h W of an edge
lives in registers only.

Rows of an atom, and how edges are walked, as in `walks`.

Radial network: h depends on r alone, so its derivative h' is carried along with h, and dE/dr needs no way
back through it: dE/dr = sum over p, c of w'_p q_p with w' = h' W and q_p = dE/dw_p.

Every atom's sums are taken in the order of its edges and every matrix product in the order of its columns,
whatever the parts that threads share: the same bits for any number of threads.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from .activation import SILU, SSP, slope, value
from .compile import inner, kernel, routine
from .elementary import sincos
from .forces import sum_forces
from .gate import gate_row, gate_row_bwd
from .radial_basis import amplitude
from .simd import WIDTH, splat, total
from .walks import (
    BACK,
    KEEP,
    OUT,
    SELF,
    add_leading,
    clear,
    direction,
    edge_back,
    messages,
    mix,
    radial_weights,
)
from .walks2 import (
    edges_back2,
    factors_back,
    factors_of,
    messages2,
    multiply_rows,
    multiply_rows_back,
    take,
    take_back,
)
from .walks3 import edges_back3, messages3, set_third

ATOMS = 12  # receivers whose numbers are in the cache together
EDGES = 64  # edges per sweep of the radial network
SQRT3 = np.sqrt(3.0)


class Net(NamedTuple):
    """Settings and weights as the kernels walk them, padded to whole vectors, with all factors in."""

    cutoff: float
    envelope_p: int
    frequencies: np.ndarray  # [B]
    hidden: np.ndarray  # [K, D, W, W]: hidden layers of the radial network, outputs x inputs
    widths: np.ndarray  # [D + 1]
    radial: np.ndarray  # [K, C / lanes, H, 5 lanes]: its last layer, with the constants of the paths
    weights: np.ndarray  # of the matrices, laid out by Layout
    turned: np.ndarray
    embedding: np.ndarray  # [Z, C]
    readout: np.ndarray  # [R]: the last layer
    species_scale: np.ndarray  # [Z]


class Work(NamedTuple):
    """Buffers, kept from call to call."""

    r: np.ndarray  # [E]
    unit: np.ndarray  # [E, 3]
    h: np.ndarray  # [K, E, 2, H]: last hidden layer and its derivative by r
    u: np.ndarray  # [K, n, 4, C]
    p: np.ndarray  # [K, n, 5, C]
    x: np.ndarray  # [n, 4, C]; on the way back its cotangent
    # M rows of messages, see `walks` and `walks2`.
    dm: np.ndarray  # [2, n, M, C]: cotangents of the messages, of one block and of the one before
    dy: np.ndarray  # [E, 4]: dE/dY and dE/dr, summed over the blocks
    rows: np.ndarray  # [T, ATOMS, M, C]: one thread's messages, or cotangents
    sweep: np.ndarray  # [T, 7, W, EDGES]: basis and its derivative, two layers of both; r, a, a'
    readout: np.ndarray  # [T, 2, ATOMS, 1, R]: its hidden numbers and their cotangents
    energies: np.ndarray  # [n], in units of the species' scale
    dedge_vec: np.ndarray  # [E, 3]: dE/d edge_vec, eV/Å
    forces: np.ndarray  # [n, 3], eV/Å


class Second(NamedTuple):
    """What filters of order 2 and products on atoms need besides, see `walks2`; None where there are neither:
    then code for them is not even compiled."""

    filters: np.ndarray  # [K]: whether a block has paths of order 2
    products: bool  # on atoms
    radial: np.ndarray  # [K, C / lanes, H, 2 lanes]: last layer of the radial network, of their two paths
    vectors: int  # columns of the products' factors, 0 where there are none
    tensors: int
    thirds: int
    a: np.ndarray  # [K, n, 9, 2 D], or more rows with filters of order 3, see `walks3`
    b: np.ndarray  # [T, ATOMS, 4, 4 D], or 6 D: one thread's products, or their cotangents
    da: np.ndarray  # [T, ATOMS, 9, 2 D], or more rows


class Third(NamedTuple):
    """What filters of order 3 need besides, see `walks3`; None where there are none, as `Second`."""

    radial: np.ndarray  # [K, C / lanes, H, lanes]: last layer of the radial network, of their path
    o: np.ndarray  # [E, 7]: O of the edges


# ---- edges: geometry and radial network


@routine
def _radial(net, graph, work, part, first, last):
    """r, Y, h and h' of the edges into atoms first : last."""
    B, K, D = net.frequencies.size, net.hidden.shape[0], net.hidden.shape[1]
    sweep = work.sweep[part]
    basis, r, a, da = sweep[0:2], sweep[6, 0], sweep[6, 1], sweep[6, 2]
    r[:] = 1  # of the lanes that a last, shorter sweep leaves unused
    lo, hi = graph.receiver_ptr[first], graph.receiver_ptr[last]
    for start in range(lo, hi, EDGES):
        n = min(EDGES, hi - start)
        for q in range(n):
            e = start + q
            x, y, z = graph.edge_vec[e, 0], graph.edge_vec[e, 1], graph.edge_vec[e, 2]
            length = np.sqrt(x * x + y * y + z * z)
            work.unit[e, 0] = SQRT3 * x / length
            work.unit[e, 1] = SQRT3 * y / length
            work.unit[e, 2] = SQRT3 * z / length
            r[q] = work.r[e] = length
            a[q], da[q], _ = amplitude(length, net.cutoff, net.envelope_p)
            work.dy[e] = 0
        for b in range(B):
            _bessel(basis[0, b], basis[1, b], r, a, da, r.dtype.type(net.frequencies[b] / net.cutoff))
        for k in range(K):
            x = basis
            for d in range(D):
                y = sweep[2:4] if d % 2 == 0 else sweep[4:6]
                for o in range(net.widths[d + 1]):
                    y[0, o] = 0
                    y[1, o] = 0
                    for i in range(net.widths[d]):
                        _add_scaled(y[0, o], x[0, i], net.hidden[k, d, o, i])
                        _add_scaled(y[1, o], x[1, i], net.hidden[k, d, o, i])
                    _activate(y[0, o], y[1, o])
                x = y
            for q in range(n):
                for o in range(work.h.shape[3]):
                    work.h[k, start + q, 0, o] = x[0, o, q]
                    work.h[k, start + q, 1, o] = x[1, o, q]


@inner
def _bessel(basis, dbasis, r, a, da, k):
    for q in range(EDGES):
        s, c = sincos(k * r[q])
        basis[q] = a[q] * s
        dbasis[q] = da[q] * s + a[q] * k * c


@inner
def _add_scaled(y, x, w):
    for q in range(EDGES):
        y[q] += w * x[q]


@inner
def _activate(x, dx):
    for q in range(EDGES):
        dx[q] *= slope(x[q], SSP)
        x[q] = value(x[q], SSP)


# ---- edges: messages and their way back


@inner
def _messages_back(du, dy, i, dm, u, h, W, unit, senders, lo, hi, step, with_v, want_v):
    """du[4, C] of atom i as sender of the reverses of edges lo : hi; adds the edges' dE/dY, dE/dr to dy."""
    L = WIDTH // u.itemsize
    du[:] = 0
    for e in range(lo, hi):
        y = direction(unit, e)
        gx = gy = gz = gr = splat(u.dtype.type(0))
        for k in range(W.shape[0]):
            w, dw = radial_weights(W, k, h, e, e, np.int64(1), with_v, want_v)
            q, g = edge_back(du, u, dm, i, senders[e], k * L, y, w, step, with_v, want_v)
            gx, gy, gz = gx + g[0], gy + g[1], gz + g[2]
            gr = gr + dw[0] * q[0] + dw[1] * q[1] + dw[2] * q[2] + dw[3] * q[3] + dw[4] * q[4]
        dy[e, 0] += total(gx)
        dy[e, 1] += total(gy)
        dy[e, 2] += total(gz)
        dy[e, 3] += total(gr)


# ---- atoms: matrices and gate


@routine
def _seen(u, x, net, layout, graph, k, first, n):
    """What neighbours see of n atoms: the self-interaction before the edges of block k."""
    clear(u, first, n)
    for of_v in range(2):
        mix(u, first, x, first, first, n, layout, k, SELF + of_v, net.weights, graph.species_ptr)


@routine
def _start(net, layout, graph, work, first, last):
    """Embedding of the species, and what the first block's edges see."""
    for i in range(first, last):
        for c in range(net.embedding.shape[1]):
            work.x[i, 0, c] = net.embedding[graph.species[i], c]
    _seen(work.u[0], work.x, net, layout, graph, np.int64(0), first, last - first)


@routine
def _forward(net, layout, graph, work, second, third, part, k, first, last):
    """Block k for atoms first : last; after the last one, energies and what they send back."""
    weights, by_species = net.weights, graph.species_ptr
    with_v, want_v, next_v = layout.with_v[k], layout.want_v[k], layout.with_v[k + 1]
    m, u, h, W, p, x = work.rows[part], work.u[k], work.h[k], net.radial[k], work.p[k], work.x
    unit, senders, ptr = work.unit, graph.senders, graph.receiver_ptr
    zero, extra, C = np.int64(0), layout.residual[k], x.shape[2]
    Cv, rows = (C, 4) if next_v else (0, 1)
    step = 3
    if second is not None:
        step = 4
    for start in range(first, last, ATOMS):
        n = min(ATOMS, last - start)
        for r in range(n):
            lo, hi = ptr[start + r], ptr[start + r + 1]
            if with_v and want_v:
                messages(m[r], u, h, W, unit, senders, lo, hi, step, True, True)
            elif with_v:
                messages(m[r], u, h, W, unit, senders, lo, hi, step, True, False)
            elif want_v:
                messages(m[r], u, h, W, unit, senders, lo, hi, step, False, True)
            elif layout.scalar is not None:
                messages(m[r], u, h, W, unit, senders, lo, hi, step, False, False)
            if second is not None:
                if second.filters[k] and want_v and with_v:
                    messages2(m[r], u, h, second.radial[k], unit, senders, lo, hi, True)
                elif second.filters[k] and want_v:
                    messages2(m[r], u, h, second.radial[k], unit, senders, lo, hi, False)
            if third is not None:
                messages3(m[r], u, h, third.radial[k], third.o, senders, lo, hi)

        clear(p, start, n)
        for of_v in range(2):
            mix(p, start, m, zero, start, n, layout, k, OUT + of_v, weights, by_species)
            mix(p, start, x, start, start, n, layout, k, KEEP + of_v, weights, by_species)
        if second is not None:  # noqa: SIM102 - what hangs on this alone is not even compiled
            if second.products:
                a, b = second.a[k], second.b[part]
                factors_of(a, start, m, zero, start, n, layout, k, weights, by_species)
                multiply_rows(b[:n], a[start : start + n], second.vectors, second.tensors, second.thirds)
                take(p, start, b, zero, start, n, layout, k, weights, by_species)
        if extra:
            for d in range(4 if with_v and next_v else 1):
                add_leading(p, 5 * start + 1 + d, x, 4 * start + d, n, extra if d == 0 else C)

        for i in range(start, start + n):
            q = p[i]
            gate_row(x[i, 0], x[i, 1:rows], q[0, :Cv], q[1], q[2 : 1 + rows], layout.n_even[k], m[0])

        if k + 1 < layout.n_even.size:
            _seen(work.u[k + 1], x, net, layout, graph, k + 1, start, n)
        else:
            _read_out(net, layout, graph, work, part, start, n)
    if k + 1 == layout.n_even.size:
        _backward_atoms(net, layout, graph, work, second, part, k, first, last)


@routine
def _read_out(net, layout, graph, work, part, first, n):
    """Energies of n atoms from x, and in its place the cotangent of the sum of scaled energies."""
    x, K, zero, by_species = work.x, layout.n_even.size, np.int64(0), graph.species_ptr
    y, dy = work.readout[part, 0], work.readout[part, 1]
    clear(y, zero, n)
    mix(y, zero, x, first, first, n, layout, K, np.int64(SELF), net.weights, by_species)
    for r in range(n):
        scale = net.species_scale[graph.species[first + r]]
        energy = y.dtype.type(0)
        for c in range(net.readout.size):
            energy += value(y[r, 0, c], SILU) * net.readout[c]
            dy[r, 0, c] = slope(y[r, 0, c], SILU) * net.readout[c] * scale
        work.energies[first + r] = energy
    clear(x, first, n)
    mix(x, first, dy, zero, first, n, layout, K, np.int64(BACK + SELF), net.turned, by_species)


@routine
def _backward_atoms(net, layout, graph, work, second, part, k, first, last):
    """From the cotangent of block k's output, in x, to dm and to that part of its input's which needs no
    neighbours, again in x."""
    turned, by_species = net.turned, graph.species_ptr
    with_v, next_v = layout.with_v[k], layout.with_v[k + 1]
    dp, dm, p, x = work.rows[part], work.dm[k % 2], work.p[k], work.x
    zero, extra, C = np.int64(0), layout.residual[k], x.shape[2]
    Cv, rows = (C, 4) if next_v else (0, 1)
    for start in range(first, last, ATOMS):
        n = min(ATOMS, last - start)
        clear(dp, zero, n)
        for r in range(n):
            d, q, dx = dp[r], p[start + r], x[start + r]
            gate_row_bwd(
                *(d[0, :Cv], d[1], d[2 : 1 + rows], dx[0], dx[1:rows]),
                *(q[0, :Cv], q[1], q[2 : 1 + rows], layout.n_even[k], d[5:]),
            )

        clear(dm, start, n)
        clear(x, start, n)
        for of_v in range(2):
            mix(dm, start, dp, zero, start, n, layout, k, BACK + OUT + of_v, turned, by_species)
            mix(x, start, dp, zero, start, n, layout, k, BACK + KEEP + of_v, turned, by_species)
        if second is not None:  # noqa: SIM102 - what hangs on this alone is not even compiled
            if second.products:
                da, db, a = second.da[part], second.b[part], second.a[k]
                take_back(db, zero, dp, zero, start, n, layout, k, turned, by_species)
                multiply_rows_back(
                    da[:n], db[:n], a[start : start + n], second.vectors, second.tensors, second.thirds
                )
                factors_back(dm, start, da, zero, start, n, layout, k, turned, by_species)
        if extra:
            for d in range(4 if with_v and next_v else 1):
                add_leading(x, 4 * start + d, dp, zero + 1 + d, n, extra if d == 0 else C)


@routine
def _backward(net, layout, graph, work, second, third, part, k, first, last):
    """Edges of block k, and the atoms of the block before; after block 0, dE / d edge_vec."""
    with_v, want_v = layout.with_v[k], layout.want_v[k]
    dm, u, h, W, x, dy = work.dm[k % 2], work.u[k], work.h[k], net.radial[k], work.x, work.dy
    unit, senders, ptr, du = work.unit, graph.senders, graph.receiver_ptr, work.rows[part]
    zero, by_species = np.int64(0), graph.species_ptr
    step = 3
    if second is not None:
        step = 4
    for start in range(first, last, ATOMS):
        n = min(ATOMS, last - start)
        for r in range(n):
            i = start + r
            lo, hi = ptr[i], ptr[i + 1]
            if with_v and want_v:
                _messages_back(du[r], dy, i, dm, u, h, W, unit, senders, lo, hi, step, True, True)
            elif with_v:
                _messages_back(du[r], dy, i, dm, u, h, W, unit, senders, lo, hi, step, True, False)
            elif want_v:
                _messages_back(du[r], dy, i, dm, u, h, W, unit, senders, lo, hi, step, False, True)
            elif layout.scalar is not None:
                _messages_back(du[r], dy, i, dm, u, h, W, unit, senders, lo, hi, step, False, False)
            if second is not None:
                if second.filters[k] and want_v and with_v:
                    edges_back2(du[r], dy, i, dm, u, h, second.radial[k], unit, senders, lo, hi, True)
                elif second.filters[k] and want_v:
                    edges_back2(du[r], dy, i, dm, u, h, second.radial[k], unit, senders, lo, hi, False)
            if third is not None:
                edges_back3(du[r], dy, i, dm, u, h, third.radial[k], unit, third.o, senders, lo, hi)
        for of_v in range(2 if k > 0 else 0):  # nothing asks for the embedding's
            mix(x, start, du, zero, start, n, layout, k, BACK + SELF + of_v, net.turned, by_species)
    if k > 0:
        _backward_atoms(net, layout, graph, work, second, part, k - 1, first, last)
    else:
        for e in range(ptr[first], ptr[last]):
            x, y, z = unit[e, 0] / SQRT3, unit[e, 1] / SQRT3, unit[e, 2] / SQRT3
            f = SQRT3 / work.r[e]
            along = x * dy[e, 0] + y * dy[e, 1] + z * dy[e, 2]
            work.dedge_vec[e, 0] = dy[e, 3] * x + f * (dy[e, 0] - along * x)
            work.dedge_vec[e, 1] = dy[e, 3] * y + f * (dy[e, 1] - along * y)
            work.dedge_vec[e, 2] = dy[e, 3] * z + f * (dy[e, 2] - along * z)


# ---- all of it


@kernel
def force_call_cpu(net, layout, graph, work, second, third, start, stop):
    """Stages start to stop - 1: fill work.energies by stages 0 to K, work.dedge_vec by those up to 2 K and
    work.forces by 2 K + 1.

    A stage is what can be done for one part of the atoms before the others are needed: the edges, then block
    after block, then back, then forces. Atoms in no part are read, never written to, see
    `eqpot.engines.by_ranks`.
    """
    blocks = layout.n_even.size
    for step in range(start, stop):
        for index in prange(graph.parts.size - 1):
            stage, part = np.int64(step), np.int64(index)  # what is called is compiled for one type only
            first, last = graph.parts[part], graph.parts[part + 1]
            if stage == 0:
                _radial(net, graph, work, part, first, last)
                if third is not None:
                    set_third(third.o, work.unit, graph.receiver_ptr[first], graph.receiver_ptr[last])
                _start(net, layout, graph, work, first, last)
            elif stage <= blocks:
                _forward(net, layout, graph, work, second, third, part, stage - 1, first, last)
            elif stage <= 2 * blocks:
                _backward(net, layout, graph, work, second, third, part, 2 * blocks - stage, first, last)
            else:
                ptr, perm, by_sender = graph.receiver_ptr, graph.sender_perm, graph.sender_ptr
                sum_forces(work.forces, work.dedge_vec, ptr, perm, by_sender, first, last)


@kernel
def walked_cpu(new, places, old, walk, atoms):
    """Fill the graph `new`, whose atom i is atom walk[i] of `old`: walk[n], its inverse atoms[n], and
    places[E], where each edge of `old` goes. new.receiver_ptr and new.sender_ptr are given.

    Each atom's edges keep their order, as receiver and as sender: its sums are the same to the last bit.
    """
    for stage in range(2):  # Numba would join two loops in a row, and the second needs all of the first
        for i in prange(walk.size):
            if stage == 0:
                _walked_edges(new, places, old, walk[i], np.int64(i), atoms)
            else:
                _walked_senders(new, places, old, walk[i], np.int64(i))


# In functions: of a loop that only writes to arrays inside a tuple, Numba thinks that it does nothing.


@routine
def _walked_edges(new, places, old, before, i, atoms):
    shift = old.receiver_ptr[before] - new.receiver_ptr[i]
    for e in range(new.receiver_ptr[i], new.receiver_ptr[i + 1]):
        places[e + shift] = e
        new.senders[e] = atoms[old.senders[e + shift]]
        for d in range(3):
            new.edge_vec[e, d] = old.edge_vec[e + shift, d]


@routine
def _walked_senders(new, places, old, before, i):
    shift = old.sender_ptr[before] - new.sender_ptr[i]
    for k in range(new.sender_ptr[i], new.sender_ptr[i + 1]):
        new.sender_perm[k] = places[old.sender_perm[k + shift]]
