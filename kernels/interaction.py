"""The interaction: five scalar/vector products along every edge, summed over the edges into each atom.

Receiver i, sender j, edge e = (i <- j), Y = Y1(e) = sqrt(3) edge_vec / r. With w_p[e, c] from the radial
network, channel by channel (Batzner et al. 2022, eq. 8 to 11; constants as in e3nn's component
normalisation):

    p   path       message into i
    0   0x0 -> 0   w0 s_j
    1   0x1 -> 1   w1 s_j Y
    2   1x0 -> 1   w2 v_j
    3   1x1 -> 0   w3 (Y . v_j) / sqrt(3)
    4   1x1 -> 1   w4 (Y x v_j) / sqrt(2)

ms[i] = [p0 | p3] and mv[i] = [p1 | p2 | p4] hold the sums, the paths of one l side by side in the last axis.

Shapes: s[n, C], v[n, 3, C] (or [n, 3, 0]), unit[E, 3], w[E, P C], ms[n, P0 C], mv[n, 3, P1 C]; none has a
unit. `paths[p] = (slot of path p in w, slot of its message in ms or mv)`, -1 where the block has no such
path.

Backward, for the cotangent (a, A) of (ms, mv) at i, from A . (Y x v) = Y . (v x A) = v . (A x Y):

    dw0 = s a0                     ds_j += w0 a0 + w1 (Y . A1)
    dw1 = s (Y . A1)               dv_j += w2 A2 + (w3 / sqrt 3) a3 Y + (w4 / sqrt 2) A4 x Y
    dw2 = v . A2                   dY   += sum_c [w1 s A1 + (w3 / sqrt 3) a3 v + (w4 / sqrt 2) v x A4]
    dw3 = (Y . v) a3 / sqrt 3
    dw4 = (Y x v) . A4 / sqrt 2

Every term is linear in each of its factors, so both tangents follow by the product rule: the same function of
one edge is called once for each factor, with that factor replaced by its tangent, while the rows of the edge
are in the first-level cache.

Threads share chunks of receivers, or of senders where the result belongs to the sender: no atomics, the same
bits for any number of threads.

On a GPU a thread takes one channel of one atom and walks its edges, so that neighbouring threads read
neighbouring channels; sums are kept in registers. What belongs to an edge is made by a warp for each edge:
its lanes share the channels and add up dE/dY.
"""

from functools import partial

import numpy as np
from numba import prange

from . import cuda as gpu
from .compile import allocating, inner, kernel
from .cuda import LANES, warp_sum

cuda = None  # see cuda.py
CHUNK = 8  # atoms per unit of parallel work
R3 = 1.0 / np.sqrt(3.0)
R2 = 1.0 / np.sqrt(2.0)
PATH_FACTORS = np.array([1.0, 1.0, 1.0, R3, R2])


# ---- loops over the channels of one row


@inner
def _add_product(out, a, b, x):
    """out += x a b"""
    for c in range(out.size):
        out[c] += x * a[c] * b[c]


@inner
def _add_dot(out, a, bx, by, bz, x, y, z):
    """out += a (x, y, z) . b"""
    for c in range(out.size):
        out[c] += a[c] * (x * bx[c] + y * by[c] + z * bz[c])


@inner
def _add_cross(out, a, b, d, x, y):
    """out += a (x b - y d), one component of a cross product"""
    for c in range(out.size):
        out[c] += a[c] * (x * b[c] - y * d[c])


@inner
def _add_dot_rows(out, ax, ay, az, bx, by, bz):
    """out += a . b"""
    for c in range(out.size):
        out[c] += ax[c] * bx[c] + ay[c] * by[c] + az[c] * bz[c]


@inner
def _add_triple(out, ax, ay, az, bx, by, bz, x, y, z):
    """out += (x, y, z) . (a x b)"""
    for c in range(out.size):
        out[c] += (
            x * (ay[c] * bz[c] - az[c] * by[c])
            + y * (az[c] * bx[c] - ax[c] * bz[c])
            + z * (ax[c] * by[c] - ay[c] * bx[c])
        )


@inner
def _sum_product(a, b, d):
    total = a.dtype.type(0)
    for c in range(a.size):
        total += a[c] * b[c] * d[c]
    return total


@inner
def _sum_cross(a, b, d, f, g):
    """sum of a (b d - f g)"""
    total = a.dtype.type(0)
    for c in range(a.size):
        total += a[c] * (b[c] * d[c] - f[c] * g[c])
    return total


# ---- one edge


@inner
def _message(ms, mv, s, v, x, y, z, w, paths):
    """Add the messages of one edge to its receiver's rows ms[P0, C], mv[3, P1, C]."""
    t3, t2 = s.dtype.type(R3), s.dtype.type(R2)
    if paths[0, 0] >= 0:
        k, q = paths[0, 0], paths[0, 1]
        _add_product(ms[q], w[k], s, s.dtype.type(1))
    if paths[1, 0] >= 0:
        k, q = paths[1, 0], paths[1, 1]
        _add_product(mv[0, q], w[k], s, x)
        _add_product(mv[1, q], w[k], s, y)
        _add_product(mv[2, q], w[k], s, z)
    if paths[2, 0] >= 0:
        k, q = paths[2, 0], paths[2, 1]
        for d in range(3):
            _add_product(mv[d, q], w[k], v[d], s.dtype.type(1))
    if paths[3, 0] >= 0:
        k, q = paths[3, 0], paths[3, 1]
        _add_dot(ms[q], w[k], v[0], v[1], v[2], t3 * x, t3 * y, t3 * z)
    if paths[4, 0] >= 0:
        k, q = paths[4, 0], paths[4, 1]
        _add_cross(mv[0, q], w[k], v[2], v[1], t2 * y, t2 * z)
        _add_cross(mv[1, q], w[k], v[0], v[2], t2 * z, t2 * x)
        _add_cross(mv[2, q], w[k], v[1], v[0], t2 * x, t2 * y)


@inner
def _message_bwd_sender(ds, dv, a, A, x, y, z, w, paths):
    """Add what one edge gives its sender: ds[C], dv[3, C] from the receiver's a[P0, C], A[3, P1, C]."""
    t3, t2 = ds.dtype.type(R3), ds.dtype.type(R2)
    if paths[0, 0] >= 0:
        k, q = paths[0, 0], paths[0, 1]
        _add_product(ds, w[k], a[q], ds.dtype.type(1))
    if paths[1, 0] >= 0:
        k, q = paths[1, 0], paths[1, 1]
        _add_dot(ds, w[k], A[0, q], A[1, q], A[2, q], x, y, z)
    if paths[2, 0] >= 0:
        k, q = paths[2, 0], paths[2, 1]
        for d in range(3):
            _add_product(dv[d], w[k], A[d, q], ds.dtype.type(1))
    if paths[3, 0] >= 0:
        k, q = paths[3, 0], paths[3, 1]
        _add_product(dv[0], w[k], a[q], t3 * x)
        _add_product(dv[1], w[k], a[q], t3 * y)
        _add_product(dv[2], w[k], a[q], t3 * z)
    if paths[4, 0] >= 0:
        k, q = paths[4, 0], paths[4, 1]
        _add_cross(dv[0], w[k], A[1, q], A[2, q], t2 * z, t2 * y)
        _add_cross(dv[1], w[k], A[2, q], A[0, q], t2 * x, t2 * z)
        _add_cross(dv[2], w[k], A[0, q], A[1, q], t2 * y, t2 * x)


@inner
def _message_bwd_w(dw, a, A, s, v, x, y, z, paths):
    """Add the cotangent of one edge's weights, dw[P, C]."""
    t3, t2 = s.dtype.type(R3), s.dtype.type(R2)
    if paths[0, 0] >= 0:
        k, q = paths[0, 0], paths[0, 1]
        _add_product(dw[k], s, a[q], s.dtype.type(1))
    if paths[1, 0] >= 0:
        k, q = paths[1, 0], paths[1, 1]
        _add_dot(dw[k], s, A[0, q], A[1, q], A[2, q], x, y, z)
    if paths[2, 0] >= 0:
        k, q = paths[2, 0], paths[2, 1]
        _add_dot_rows(dw[k], v[0], v[1], v[2], A[0, q], A[1, q], A[2, q])
    if paths[3, 0] >= 0:
        k, q = paths[3, 0], paths[3, 1]
        _add_dot(dw[k], a[q], v[0], v[1], v[2], t3 * x, t3 * y, t3 * z)
    if paths[4, 0] >= 0:
        k, q = paths[4, 0], paths[4, 1]
        _add_triple(dw[k], v[0], v[1], v[2], A[0, q], A[1, q], A[2, q], t2 * x, t2 * y, t2 * z)


@inner
def _message_bwd_unit(dy, a, A, s, v, w, paths):
    """Add the cotangent of one edge's direction, dy[3]."""
    t3, t2 = s.dtype.type(R3), s.dtype.type(R2)
    if paths[1, 0] >= 0:
        k, q = paths[1, 0], paths[1, 1]
        for d in range(3):
            dy[d] += _sum_product(w[k], s, A[d, q])
    if paths[3, 0] >= 0:
        k, q = paths[3, 0], paths[3, 1]
        for d in range(3):
            dy[d] += t3 * _sum_product(w[k], a[q], v[d])
    if paths[4, 0] >= 0:
        k, q = paths[4, 0], paths[4, 1]
        for d in range(3):
            f, g = (d + 1) % 3, (d + 2) % 3
            dy[d] += t2 * _sum_cross(w[k], v[f], A[g, q], v[g], A[f, q])


# ---- all edges


@kernel
def _fwd_cpu(ms, mv, s, v, unit, w, senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths):
    n = s.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            ms[i] = 0
            mv[i] = 0
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                j = senders[e]
                _message(ms[i], mv[i], s[j], v[j], unit[e, 0], unit[e, 1], unit[e, 2], w[e], paths)


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
    n = s.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        with_y = _with_y(paths)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            tms[i] = 0
            tmv[i] = 0
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                j = senders[e]
                for moved in range(3):  # the features, then the weights, then the direction
                    y = tunit[e] if moved == 2 else unit[e]
                    _message(
                        tms[i],
                        tmv[i],
                        ts[j] if moved == 0 else s[j],
                        tv[j] if moved == 0 else v[j],
                        y[0],
                        y[1],
                        y[2],
                        tw[e] if moved == 1 else w[e],
                        with_y if moved == 2 else paths,
                    )


@allocating
def _with_y(paths):
    """The paths whose product holds Y1: the others do not move with it."""
    only = paths.copy()
    only[0] = -1
    only[2] = -1
    return only


@kernel
def _bwd_sender_cpu(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths):
    n = ds.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for p in range(sender_ptr[j], sender_ptr[j + 1]):
                e = sender_perm[p]
                i, y = receivers[e], unit[e]
                _message_bwd_sender(ds[j], dv[j], dms[i], dmv[i], y[0], y[1], y[2], w[e], paths)


@kernel
def _bwd_edge_cpu(dunit, dw, dms, dmv, s, v, unit, w, senders, receivers, receiver_ptr, paths, want_unit):
    n = s.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                j, y = senders[e], unit[e]
                _message_bwd_w(dw[e], dms[i], dmv[i], s[j], v[j], y[0], y[1], y[2], paths)
                if want_unit:
                    _message_bwd_unit(dunit[e], dms[i], dmv[i], s[j], v[j], w[e], paths)


@kernel
def _bwd_tan_sender_cpu(
    tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
):
    n = tds.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        with_y = _with_y(paths)
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for p in range(sender_ptr[j], sender_ptr[j + 1]):
                e = sender_perm[p]
                i = receivers[e]
                for moved in range(3):  # the messages' cotangents, then the weights, then the direction
                    y = tunit[e] if moved == 2 else unit[e]
                    _message_bwd_sender(
                        tds[j],
                        tdv[j],
                        tdms[i] if moved == 0 else dms[i],
                        tdmv[i] if moved == 0 else dmv[i],
                        y[0],
                        y[1],
                        y[2],
                        tw[e] if moved == 1 else w[e],
                        with_y if moved == 2 else paths,
                    )


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
    n = s.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        with_y = _with_y(paths)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                j = senders[e]
                for moved in range(3):  # the messages' cotangents, then the features, then what is left
                    a = tdms[i] if moved == 0 else dms[i]
                    A = tdmv[i] if moved == 0 else dmv[i]
                    s_j, v_j = (ts[j], tv[j]) if moved == 1 else (s[j], v[j])
                    y = tunit[e] if moved == 2 else unit[e]
                    _message_bwd_w(tdw[e], a, A, s_j, v_j, y[0], y[1], y[2], with_y if moved == 2 else paths)
                    if want_unit:
                        _message_bwd_unit(tdunit[e], a, A, s_j, v_j, tw[e] if moved == 2 else w[e], paths)


# ---- on a GPU: one channel of one edge; paths that a block lacks have weights and messages of zero


@gpu.Device
def _weights(w, e, c, paths):
    """w_p[e, c] with the constants of the paths, of w[E, P, C]."""
    zero, t3, t2 = w.dtype.type(0), w.dtype.type(R3), w.dtype.type(R2)
    w0 = w[e, paths[0, 0], c] if paths[0, 0] >= 0 else zero
    w1 = w[e, paths[1, 0], c] if paths[1, 0] >= 0 else zero
    w2 = w[e, paths[2, 0], c] if paths[2, 0] >= 0 else zero
    w3 = t3 * w[e, paths[3, 0], c] if paths[3, 0] >= 0 else zero
    w4 = t2 * w[e, paths[4, 0], c] if paths[4, 0] >= 0 else zero
    return w0, w1, w2, w3, w4


@gpu.Device
def _features(s, v, j, c):
    """s, v_x, v_y, v_z of atom j, with v = 0 where there is none."""
    if v.shape[2] == 0:
        zero = s.dtype.type(0)
        return s[j, c], zero, zero, zero
    return s[j, c], v[j, 0, c], v[j, 1, c], v[j, 2, c]


@gpu.Device
def _cotangents(dms, dmv, i, c, paths):
    """Of the messages at atom i, dms[n, P0, C] and dmv[n, 3, P1, C]: a0, a3, A1, A2, A4."""
    zero = dms.dtype.type(0)
    a0 = dms[i, paths[0, 1], c] if paths[0, 0] >= 0 else zero
    a3 = dms[i, paths[3, 1], c] if paths[3, 0] >= 0 else zero
    x1 = y1 = z1 = x2 = y2 = z2 = x4 = y4 = z4 = zero
    if paths[1, 0] >= 0:
        q = paths[1, 1]
        x1, y1, z1 = dmv[i, 0, q, c], dmv[i, 1, q, c], dmv[i, 2, q, c]
    if paths[2, 0] >= 0:
        q = paths[2, 1]
        x2, y2, z2 = dmv[i, 0, q, c], dmv[i, 1, q, c], dmv[i, 2, q, c]
    if paths[4, 0] >= 0:
        q = paths[4, 1]
        x4, y4, z4 = dmv[i, 0, q, c], dmv[i, 1, q, c], dmv[i, 2, q, c]
    return a0, a3, x1, y1, z1, x2, y2, z2, x4, y4, z4


@gpu.Device
def message(w, f, x, y, z):
    """p0, p3, p1, p2, p4 of one edge and channel from its weights w[5], features f[4] and Y."""
    w0, w1, w2, w3, w4 = w
    s, vx, vy, vz = f
    ws = w1 * s
    cx, cy, cz = y * vz - z * vy, z * vx - x * vz, x * vy - y * vx
    p3 = w3 * (x * vx + y * vy + z * vz)
    return w0 * s, p3, ws * x, ws * y, ws * z, w2 * vx, w2 * vy, w2 * vz, w4 * cx, w4 * cy, w4 * cz


@gpu.Device
def to_sender(w, a, x, y, z):
    """ds, dv of one edge and channel from its weights and the messages' cotangents a[11]."""
    w0, w1, w2, w3, w4 = w
    a0, a3, x1, y1, z1, x2, y2, z2, x4, y4, z4 = a
    wa = w3 * a3
    return (
        w0 * a0 + w1 * (x * x1 + y * y1 + z * z1),
        w2 * x2 + wa * x + w4 * (y4 * z - z4 * y),
        w2 * y2 + wa * y + w4 * (z4 * x - x4 * z),
        w2 * z2 + wa * z + w4 * (x4 * y - y4 * x),
    )


@gpu.Device
def to_weights(f, a, x, y, z):
    """dw_p of one edge and channel, but for the constants of the paths."""
    s, vx, vy, vz = f
    a0, a3, x1, y1, z1, x2, y2, z2, x4, y4, z4 = a
    return (
        s * a0,
        s * (x * x1 + y * y1 + z * z1),
        vx * x2 + vy * y2 + vz * z2,
        a3 * (x * vx + y * vy + z * vz),
        x * (vy * z4 - vz * y4) + y * (vz * x4 - vx * z4) + z * (vx * y4 - vy * x4),
    )


@gpu.Device
def to_unit(w, f, a):
    """dY of one edge and channel."""
    _, w1, _, w3, w4 = w
    s, vx, vy, vz = f
    _, a3, x1, y1, z1, _, _, _, x4, y4, z4 = a
    ws, wa = w1 * s, w3 * a3
    return (
        ws * x1 + wa * vx + w4 * (vy * z4 - vz * y4),
        ws * y1 + wa * vy + w4 * (vz * x4 - vx * z4),
        ws * z1 + wa * vz + w4 * (vx * y4 - vy * x4),
    )


@gpu.Device
def added(a, b):
    """a + b, of eleven numbers each."""
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10 = b
    a0, a1, a2, a3, a4, a5 = a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5
    return a0, a1, a2, a3, a4, a5, a6 + b6, a7 + b7, a8 + b8, a9 + b9, a10 + b10


@gpu.Device
def _nothing(zero):
    return zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero


@gpu.Device
def _store(ms, mv, i, c, m, paths):
    """Messages m[11] into the rows of atom i, those that the block has."""
    if paths[0, 0] >= 0:
        ms[i, paths[0, 1], c] = m[0]
    if paths[3, 0] >= 0:
        ms[i, paths[3, 1], c] = m[1]
    if paths[1, 0] >= 0:
        q = paths[1, 1]
        mv[i, 0, q, c], mv[i, 1, q, c], mv[i, 2, q, c] = m[2], m[3], m[4]
    if paths[2, 0] >= 0:
        q = paths[2, 1]
        mv[i, 0, q, c], mv[i, 1, q, c], mv[i, 2, q, c] = m[5], m[6], m[7]
    if paths[4, 0] >= 0:
        q = paths[4, 1]
        mv[i, 0, q, c], mv[i, 1, q, c], mv[i, 2, q, c] = m[8], m[9], m[10]


@gpu.Device
def _add_weights(dw, e, c, g, paths):
    """Add g[5] to the cotangent of an edge's weights, dw[E, P, C]."""
    t3, t2 = dw.dtype.type(R3), dw.dtype.type(R2)
    if paths[0, 0] >= 0:
        dw[e, paths[0, 0], c] += g[0]
    if paths[1, 0] >= 0:
        dw[e, paths[1, 0], c] += g[1]
    if paths[2, 0] >= 0:
        dw[e, paths[2, 0], c] += g[2]
    if paths[3, 0] >= 0:
        dw[e, paths[3, 0], c] += t3 * g[3]
    if paths[4, 0] >= 0:
        dw[e, paths[4, 0], c] += t2 * g[4]


# ---- on a GPU: all edges


@gpu.kernel(lambda ms, mv, s, *_: s.size)
def _fwd_cuda(ms, mv, s, v, unit, w, senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths):
    """A thread takes one channel of one atom; 59 registers; for each edge 36 bytes, 39 operations."""
    n, C = s.shape
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        i, c = k // C, k % C
        m = _nothing(s.dtype.type(0))
        for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
            f = _features(s, v, senders[e], c)
            x, y, z = unit[e, 0], unit[e, 1], unit[e, 2]
            m = added(m, message(_weights(w, e, c, paths), f, x, y, z))
        _store(ms, mv, i, c, m, paths)


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
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        i, c = k // C, k % C
        zero = s.dtype.type(0)
        m = _nothing(zero)
        for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
            j = senders[e]
            x, y, z = unit[e, 0], unit[e, 1], unit[e, 2]
            w_e, f = _weights(w, e, c, paths), _features(s, v, j, c)
            m = added(m, message(w_e, _features(ts, tv, j, c), x, y, z))
            m = added(m, message(_weights(tw, e, c, paths), f, x, y, z))
            of_y = zero, w_e[1], zero, w_e[3], w_e[4]
            m = added(m, message(of_y, f, tunit[e, 0], tunit[e, 1], tunit[e, 2]))
        _store(tms, tmv, i, c, m, paths)


@gpu.kernel(lambda ds, *_: ds.size)
def _bwd_sender_cuda(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths):
    """A thread takes one channel of one atom; 60 registers; for each edge 64 bytes, 39 operations."""
    n, C = ds.shape
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        j, c = k // C, k % C
        s = x = y = z = ds.dtype.type(0)
        for p in range(sender_ptr[j], sender_ptr[j + 1]):
            e = sender_perm[p]
            a, w_e = _cotangents(dms, dmv, receivers[e], c, paths), _weights(w, e, c, paths)
            gs, gx, gy, gz = to_sender(w_e, a, unit[e, 0], unit[e, 1], unit[e, 2])
            s, x, y, z = s + gs, x + gx, y + gy, z + gz
        ds[j, c] += s
        if dv.shape[2]:
            dv[j, 0, c] += x
            dv[j, 1, c] += y
            dv[j, 2, c] += z


@gpu.kernel(lambda dunit, dw, *_: LANES * len(dw))
def _bwd_edge_cuda(dunit, dw, dms, dmv, s, v, unit, w, senders, receivers, receiver_ptr, paths, want_unit):
    """A warp takes one edge; 62 registers; for each channel 120 bytes, 70 operations, then three sums."""
    C = s.shape[1]
    lane = cuda.threadIdx.x % LANES
    for e in range(cuda.grid(1) // LANES, dw.shape[0], cuda.gridsize(1) // LANES):
        i, j = receivers[e], senders[e]
        gx = gy = gz = s.dtype.type(0)
        for c in range(lane, C, LANES):
            f, a = _features(s, v, j, c), _cotangents(dms, dmv, i, c, paths)
            _add_weights(dw, e, c, to_weights(f, a, unit[e, 0], unit[e, 1], unit[e, 2]), paths)
            x, y, z = to_unit(_weights(w, e, c, paths), f, a)
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
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        j, c = k // C, k % C
        zero = tds.dtype.type(0)
        s = tx = ty = tz = zero
        for p in range(sender_ptr[j], sender_ptr[j + 1]):
            e = sender_perm[p]
            i = receivers[e]
            x, y, z = unit[e, 0], unit[e, 1], unit[e, 2]
            w_e, a = _weights(w, e, c, paths), _cotangents(dms, dmv, i, c, paths)
            of_y = zero, w_e[1], zero, w_e[3], w_e[4]
            g = to_sender(w_e, _cotangents(tdms, tdmv, i, c, paths), x, y, z)
            h = to_sender(_weights(tw, e, c, paths), a, x, y, z)
            q = to_sender(of_y, a, tunit[e, 0], tunit[e, 1], tunit[e, 2])
            s, tx = s + (g[0] + h[0] + q[0]), tx + (g[1] + h[1] + q[1])
            ty, tz = ty + (g[2] + h[2] + q[2]), tz + (g[3] + h[3] + q[3])
        tds[j, c] += s
        if tdv.shape[2]:
            tdv[j, 0, c] += tx
            tdv[j, 1, c] += ty
            tdv[j, 2, c] += tz


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
        x, y, z = unit[e, 0], unit[e, 1], unit[e, 2]
        zero = s.dtype.type(0)
        gx = gy = gz = zero
        for c in range(lane, C, LANES):
            f, a, w_e = _features(s, v, j, c), _cotangents(dms, dmv, i, c, paths), _weights(w, e, c, paths)
            tf, ta = _features(ts, tv, j, c), _cotangents(tdms, tdmv, i, c, paths)
            _add_weights(tdw, e, c, to_weights(f, ta, x, y, z), paths)
            _add_weights(tdw, e, c, to_weights(tf, a, x, y, z), paths)
            g = to_weights(f, a, tunit[e, 0], tunit[e, 1], tunit[e, 2])
            _add_weights(tdw, e, c, (zero, g[1], zero, g[3], g[4]), paths)
            g, h, q = to_unit(w_e, f, ta), to_unit(w_e, tf, a), to_unit(_weights(tw, e, c, paths), f, a)
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
    run(_by_path(ms, C), _by_path(mv, C), s, v, unit, _by_path(w, C), *graph)


def _fwd_tan(run, tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph):
    C = s.shape[-1]
    ts, tv, tunit, tw = _or_zero(ts, s), _or_zero(tv, v), _or_zero(tunit, unit), _or_zero(tw, w)
    tms, tmv, tw, w = _by_path(tms, C), _by_path(tmv, C), _by_path(tw, C), _by_path(w, C)
    run(tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph)


def _bwd(of_sender, of_edge, ds, dv, dunit, dw, dms, dmv, s, v, unit, w, *graph):
    senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
    C = s.shape[-1]
    dms, dmv, w = _by_path(dms, C), _by_path(dmv, C), _by_path(w, C)
    if ds is not None or dv is not None:
        ds, dv = _or_zero(ds, s), _or_zero(dv, v)
        of_sender(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths)
    if dunit is not None or dw is not None:
        want_unit = dunit is not None
        dunit, dw = dunit if want_unit else unit, np.zeros_like(w) if dw is None else _by_path(dw, C)
        of_edge(dunit, dw, dms, dmv, s, v, unit, w, senders, receivers, receiver_ptr, paths, want_unit)


def _bwd_tan(
    of_sender, of_edge, tds, tdv, tdunit, tdw, tdms, tdmv, ts, tv, tunit, tw, dms, dmv, s, v, unit, w, *graph
):
    senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
    C = s.shape[-1]
    ts, tv, tunit, tw = _or_zero(ts, s), _or_zero(tv, v), _or_zero(tunit, unit), _or_zero(tw, w)
    tdms, tdmv, dms, dmv = _by_path(tdms, C), _by_path(tdmv, C), _by_path(dms, C), _by_path(dmv, C)
    tw, w = _by_path(tw, C), _by_path(w, C)
    if tds is not None or tdv is not None:
        tds, tdv = _or_zero(tds, s), _or_zero(tdv, v)
        of_sender(
            tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
        )
    if tdunit is not None or tdw is not None:
        want_unit = tdunit is not None
        tdunit, tdw = tdunit if want_unit else unit, np.zeros_like(w) if tdw is None else _by_path(tdw, C)
        inputs = (ts, tv, tunit, tw, dms, dmv, s, v, unit, w)
        of_edge(tdunit, tdw, tdms, tdmv, *inputs, senders, receivers, receiver_ptr, paths, want_unit)


def _by_path(array, channels):
    """The same array with the paths, side by side in its last axis, on an axis of their own."""
    *lead, columns = array.shape
    return array.reshape(*lead, columns // channels, channels)


def _or_zero(array, like):
    """The array, or zeros in its place: an input that does not move, or a result that nobody asked for."""
    return np.zeros_like(like) if array is None else array


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
