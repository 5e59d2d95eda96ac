"""The interaction: five scalar/vector products along every edge, summed over the edges into each atom.

The products, and what goes back through them, are those of `products`, for one edge and one channel; here
they meet the arrays:

    ms[i] = [p0 | p3] and mv[i] = [p1 | p2 | p4], summed over the edges into i, paths of one l side by side

Shapes: s[n, C], v[n, 3, C] (or [n, 3, 0]), unit[E, 3], w[E, P C], ms[n, P0 C], mv[n, 3, P1 C]; none has a
unit. `paths[p] = (slot of path p in w, slot of its message in ms or mv)`, -1 where the block has no such
path: its weights and messages are zero.

On a CPU threads share chunks of receivers, or of senders where the result belongs to the sender: no atomics,
the same bits for any number of threads. As many channels are taken together as a vector holds, and those
beyond the last whole vector one by one.

On a GPU a thread takes one channel of one atom and walks its edges, so that neighbouring threads read
neighbouring channels. What belongs to an edge is made by a warp for each edge: its lanes share the channels
and add up dE/dY. In either case the sums are kept in registers.
"""

from functools import partial

import numpy as np
from numba import prange

from . import cuda as gpu
from .arguments import by_path, or_zero
from .channels import (
    add_features,
    add_weights,
    direction_at,
    edge_gets,
    edge_gets_tan,
    features_at,
    messages_at,
    put_messages,
    sender_gets,
    sender_gets_tan,
    sent,
    sent_tan,
    weights_at,
)
from .compile import inner, kernel
from .cuda import LANES, warp_sum
from .products import PATH_FACTORS as PATH_FACTORS  # known by this address
from .products import added, message, nothing, to_sender, to_unit, to_weights
from .simd import WIDTH, splat, total

cuda = None  # see cuda.py
CHUNK = 8  # atoms per unit of parallel work


# ---- on a CPU: everything, as many channels at a time as a vector holds, then those that are left


@inner
def _lanes(s):
    return WIDTH // s.itemsize


@kernel
def _fwd_cpu(ms, mv, s, v, unit, w, senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = _lanes(s), s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                sent(splat(zero), i, c, ms, mv, s, v, unit, w, senders, receiver_ptr, paths)
            for c in range(C - C % L, C):
                sent(zero, i, c, ms, mv, s, v, unit, w, senders, receiver_ptr, paths)


@kernel
def _fwd_tan_cpu(
    tms,
    tmv,
    ts,
    tv,
    tunit,
    tw,
    s,
    v,
    unit,
    w,
    senders,
    receivers,
    receiver_ptr,
    sender_perm,
    sender_ptr,
    paths,
):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = _lanes(s), s.dtype.type(0)
        graph = senders, receiver_ptr, paths
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                sent_tan(splat(zero), i, c, tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph)
            for c in range(C - C % L, C):
                sent_tan(zero, i, c, tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph)


@kernel
def _bwd_sender_cpu(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths):
    n, C = ds.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = _lanes(ds), ds.dtype.type(0)
        graph = receivers, sender_perm, sender_ptr, paths
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                sender_gets(splat(zero), j, c, ds, dv, dms, dmv, unit, w, *graph)
            for c in range(C - C % L, C):
                sender_gets(zero, j, c, ds, dv, dms, dmv, unit, w, *graph)


@kernel
def _bwd_tan_sender_cpu(
    tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
):
    n, C = tds.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = _lanes(tds), tds.dtype.type(0)
        graph = receivers, sender_perm, sender_ptr, paths
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                sender_gets_tan(splat(zero), j, c, tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, *graph)
            for c in range(C - C % L, C):
                sender_gets_tan(zero, j, c, tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, *graph)


@kernel
def _bwd_edge_cpu(dunit, dw, dms, dmv, s, v, unit, w, senders, receivers, receiver_ptr, paths, want_unit):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = _lanes(s), s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                x = y = z = splat(zero)
                for c in range(0, C - C % L, L):
                    gx, gy, gz = edge_gets(
                        splat(zero), e, c, dw, dms, dmv, s, v, unit, w, i, senders[e], paths
                    )
                    x, y, z = x + gx, y + gy, z + gz
                ax, ay, az = total(x), total(y), total(z)
                for c in range(C - C % L, C):
                    hx, hy, hz = edge_gets(zero, e, c, dw, dms, dmv, s, v, unit, w, i, senders[e], paths)
                    ax, ay, az = ax + hx, ay + hy, az + hz
                if want_unit:
                    dunit[e, 0] += ax
                    dunit[e, 1] += ay
                    dunit[e, 2] += az


@kernel
def _bwd_tan_edge_cpu(
    tdunit,
    tdw,
    tdms,
    tdmv,
    ts,
    tv,
    tunit,
    tw,
    dms,
    dmv,
    s,
    v,
    unit,
    w,
    senders,
    receivers,
    receiver_ptr,
    paths,
    want_unit,
):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = _lanes(s), s.dtype.type(0)
        arrays = tdw, tdms, tdmv, ts, tv, tunit, tw, dms, dmv, s, v, unit, w
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                x = y = z = splat(zero)
                for c in range(0, C - C % L, L):
                    gx, gy, gz = edge_gets_tan(splat(zero), e, c, *arrays, i, senders[e], paths)
                    x, y, z = x + gx, y + gy, z + gz
                ax, ay, az = total(x), total(y), total(z)
                for c in range(C - C % L, C):
                    hx, hy, hz = edge_gets_tan(zero, e, c, *arrays, i, senders[e], paths)
                    ax, ay, az = ax + hx, ay + hy, az + hz
                if want_unit:
                    tdunit[e, 0] += ax
                    tdunit[e, 1] += ay
                    tdunit[e, 2] += az


# ---- on a GPU: paths that a block lacks have weights and messages of zero


@gpu.Device
def _of_y(w, zero):
    """The weights of the paths whose product holds Y: the others do not move with it."""
    return zero, w[1], zero, w[3], w[4]


@gpu.kernel(lambda ms, mv, s, *_: s.size)
def _fwd_cuda(ms, mv, s, v, unit, w, senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths):
    """A thread takes one channel of one atom; 59 registers; for each edge 36 bytes, 39 operations."""
    n, C = s.shape
    zero = s.dtype.type(0)
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        i, c = k // C, k % C
        m = nothing(zero)
        for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
            w_e, f = weights_at(w, e, c, paths, zero), features_at(s, v, senders[e], c, zero)
            m = added(m, message(w_e, f, direction_at(unit, e, zero), zero, True, True))
        put_messages(ms, mv, i, c, m, paths)


@gpu.kernel(lambda tms, tmv, ts, *_: ts.size)
def _fwd_tan_cuda(
    tms,
    tmv,
    ts,
    tv,
    tunit,
    tw,
    s,
    v,
    unit,
    w,
    senders,
    receivers,
    receiver_ptr,
    sender_perm,
    sender_ptr,
    paths,
):
    """A thread takes one channel of one atom; 72 registers; for each edge 72 bytes, 115 operations."""
    n, C = s.shape
    zero = s.dtype.type(0)
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        i, c = k // C, k % C
        m = nothing(zero)
        for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
            j = senders[e]
            w_e, f = weights_at(w, e, c, paths, zero), features_at(s, v, j, c, zero)
            y, ty = direction_at(unit, e, zero), direction_at(tunit, e, zero)
            m = added(m, message(w_e, features_at(ts, tv, j, c, zero), y, zero, True, True))
            m = added(m, message(weights_at(tw, e, c, paths, zero), f, y, zero, True, True))
            m = added(m, message(_of_y(w_e, zero), f, ty, zero, True, True))
        put_messages(tms, tmv, i, c, m, paths)


@gpu.kernel(lambda ds, *_: ds.size)
def _bwd_sender_cuda(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths):
    """A thread takes one channel of one atom; 60 registers; for each edge 64 bytes, 39 operations."""
    n, C = ds.shape
    zero = ds.dtype.type(0)
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        j, c = k // C, k % C
        s = x = y = z = zero
        for p in range(sender_ptr[j], sender_ptr[j + 1]):
            e = sender_perm[p]
            w_e, a = weights_at(w, e, c, paths, zero), messages_at(dms, dmv, receivers[e], c, paths, zero)
            g = to_sender(w_e, a, direction_at(unit, e, zero), zero, True, True)
            s, x, y, z = s + g[0], x + g[1], y + g[2], z + g[3]
        add_features(ds, dv, j, c, (s, x, y, z), zero)


@gpu.kernel(lambda dunit, dw, *_: LANES * len(dw))
def _bwd_edge_cuda(dunit, dw, dms, dmv, s, v, unit, w, senders, receivers, receiver_ptr, paths, want_unit):
    """A warp takes one edge; 62 registers; for each channel 120 bytes, 70 operations, then three sums."""
    C = s.shape[1]
    lane = cuda.threadIdx.x % LANES
    for e in range(cuda.grid(1) // LANES, dw.shape[0], cuda.gridsize(1) // LANES):
        i, j = receivers[e], senders[e]
        zero = s.dtype.type(0)
        gx = gy = gz = zero
        for c in range(lane, C, LANES):
            f, a = features_at(s, v, j, c, zero), messages_at(dms, dmv, i, c, paths, zero)
            q = to_weights(f, a, direction_at(unit, e, zero), zero, True, True)
            add_weights(dw, e, c, q, paths, zero)
            x, y, z = to_unit(weights_at(w, e, c, paths, zero), f, a, zero, True, True)
            gx, gy, gz = gx + x, gy + y, gz + z
        if want_unit:
            gx, gy, gz = warp_sum(gx), warp_sum(gy), warp_sum(gz)
            if lane == 0:
                dunit[e, 0] += gx
                dunit[e, 1] += gy
                dunit[e, 2] += gz


@gpu.kernel(lambda tds, *_: tds.size)
def _bwd_tan_sender_cuda(
    tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
):
    """A thread takes one channel of one atom; 79 registers; for each edge 128 bytes, 115 operations."""
    n, C = tds.shape
    zero = tds.dtype.type(0)
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        j, c = k // C, k % C
        s = x = y = z = zero
        for p in range(sender_ptr[j], sender_ptr[j + 1]):
            e = sender_perm[p]
            i = receivers[e]
            unit_e, tunit_e = direction_at(unit, e, zero), direction_at(tunit, e, zero)
            w_e, a = weights_at(w, e, c, paths, zero), messages_at(dms, dmv, i, c, paths, zero)
            ta = messages_at(tdms, tdmv, i, c, paths, zero)
            g = to_sender(w_e, ta, unit_e, zero, True, True)
            h = to_sender(weights_at(tw, e, c, paths, zero), a, unit_e, zero, True, True)
            q = to_sender(_of_y(w_e, zero), a, tunit_e, zero, True, True)
            s, x = s + (g[0] + h[0] + q[0]), x + (g[1] + h[1] + q[1])
            y, z = y + (g[2] + h[2] + q[2]), z + (g[3] + h[3] + q[3])
        add_features(tds, tdv, j, c, (s, x, y, z), zero)


@gpu.kernel(lambda tdunit, tdw, *_: LANES * len(tdw))
def _bwd_tan_edge_cuda(
    tdunit,
    tdw,
    tdms,
    tdmv,
    ts,
    tv,
    tunit,
    tw,
    dms,
    dmv,
    s,
    v,
    unit,
    w,
    senders,
    receivers,
    receiver_ptr,
    paths,
    want_unit,
):
    """A warp takes one edge; 94 registers; for each channel 200 bytes, 208 operations, then three sums."""
    C = s.shape[1]
    lane = cuda.threadIdx.x % LANES
    for e in range(cuda.grid(1) // LANES, tdw.shape[0], cuda.gridsize(1) // LANES):
        i, j = receivers[e], senders[e]
        zero = s.dtype.type(0)
        y, ty = direction_at(unit, e, zero), direction_at(tunit, e, zero)
        gx = gy = gz = zero
        for c in range(lane, C, LANES):
            f, tf = features_at(s, v, j, c, zero), features_at(ts, tv, j, c, zero)
            a, ta = messages_at(dms, dmv, i, c, paths, zero), messages_at(tdms, tdmv, i, c, paths, zero)
            add_weights(tdw, e, c, to_weights(f, ta, y, zero, True, True), paths, zero)
            add_weights(tdw, e, c, to_weights(tf, a, y, zero, True, True), paths, zero)
            g = to_weights(f, a, ty, zero, True, True)
            add_weights(tdw, e, c, _of_y(g, zero), paths, zero)
            w_e = weights_at(w, e, c, paths, zero)
            g, h = to_unit(w_e, f, ta, zero, True, True), to_unit(w_e, tf, a, zero, True, True)
            q = to_unit(weights_at(tw, e, c, paths, zero), f, a, zero, True, True)
            gx, gy, gz = gx + (g[0] + h[0] + q[0]), gy + (g[1] + h[1] + q[1]), gz + (g[2] + h[2] + q[2])
        if want_unit:
            gx, gy, gz = warp_sum(gx), warp_sum(gy), warp_sum(gz)
            if lane == 0:
                tdunit[e, 0] += gx
                tdunit[e, 1] += gy
                tdunit[e, 2] += gz


# ---- the table's signatures


def _fwd(run, ms, mv, s, v, unit, w, *graph):
    C = s.shape[-1]
    run(by_path(ms, C), by_path(mv, C), s, v, unit, by_path(w, C), *graph)


def _fwd_tan(run, tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph):
    C = s.shape[-1]
    ts, tv, tunit, tw = or_zero(ts, s), or_zero(tv, v), or_zero(tunit, unit), or_zero(tw, w)
    tms, tmv, tw, w = by_path(tms, C), by_path(tmv, C), by_path(tw, C), by_path(w, C)
    run(tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph)


def _bwd(of_sender, of_edge, ds, dv, dunit, dw, dms, dmv, s, v, unit, w, *graph):
    senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
    C = s.shape[-1]
    dms, dmv, w = by_path(dms, C), by_path(dmv, C), by_path(w, C)
    if ds is not None or dv is not None:
        ds, dv = or_zero(ds, s), or_zero(dv, v)
        of_sender(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths)
    if dunit is not None or dw is not None:
        want_unit = dunit is not None
        dunit, dw = dunit if want_unit else unit, np.zeros_like(w) if dw is None else by_path(dw, C)
        of_edge(dunit, dw, dms, dmv, s, v, unit, w, senders, receivers, receiver_ptr, paths, want_unit)


def _bwd_tan(
    of_sender, of_edge, tds, tdv, tdunit, tdw, tdms, tdmv, ts, tv, tunit, tw, dms, dmv, s, v, unit, w, *graph
):
    senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
    C = s.shape[-1]
    ts, tv, tunit, tw = or_zero(ts, s), or_zero(tv, v), or_zero(tunit, unit), or_zero(tw, w)
    tdms, tdmv, dms, dmv = by_path(tdms, C), by_path(tdmv, C), by_path(dms, C), by_path(dmv, C)
    tw, w = by_path(tw, C), by_path(w, C)
    if tds is not None or tdv is not None:
        tds, tdv = or_zero(tds, s), or_zero(tdv, v)
        of_sender(
            tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
        )
    if tdunit is not None or tdw is not None:
        want_unit = tdunit is not None
        tdunit, tdw = tdunit if want_unit else unit, np.zeros_like(w) if tdw is None else by_path(tdw, C)
        inputs = (ts, tv, tunit, tw, dms, dmv, s, v, unit, w)
        of_edge(tdunit, tdw, tdms, tdmv, *inputs, senders, receivers, receiver_ptr, paths, want_unit)


def _sent(entry):
    """With `paths`, the last argument, sent to the GPU."""
    return lambda *arguments: entry(*arguments[:-1], gpu.constant(arguments[-1]))


interaction_fwd_cpu = partial(_fwd, _fwd_cpu)
interaction_fwd_cuda = _sent(partial(_fwd, _fwd_cuda))
interaction_fwd_tan_cpu = partial(_fwd_tan, _fwd_tan_cpu)
interaction_fwd_tan_cuda = _sent(partial(_fwd_tan, _fwd_tan_cuda))
interaction_bwd_cpu = partial(_bwd, _bwd_sender_cpu, _bwd_edge_cpu)
interaction_bwd_cuda = _sent(partial(_bwd, _bwd_sender_cuda, _bwd_edge_cuda))
interaction_bwd_tan_cpu = partial(_bwd_tan, _bwd_tan_sender_cpu, _bwd_tan_edge_cpu)
interaction_bwd_tan_cuda = _sent(partial(_bwd_tan, _bwd_tan_sender_cuda, _bwd_tan_edge_cuda))
