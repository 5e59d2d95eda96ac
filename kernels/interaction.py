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
"""

import numpy as np
from numba import prange

from .compile import allocating, inner, kernel

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
def _fwd(ms, mv, s, v, unit, w, senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths):
    n = s.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            ms[i] = 0
            mv[i] = 0
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                j = senders[e]
                _message(ms[i], mv[i], s[j], v[j], unit[e, 0], unit[e, 1], unit[e, 2], w[e], paths)


@kernel
def _fwd_tan(
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
def _bwd_sender(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths):
    n = ds.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for p in range(sender_ptr[j], sender_ptr[j + 1]):
                e = sender_perm[p]
                i, y = receivers[e], unit[e]
                _message_bwd_sender(ds[j], dv[j], dms[i], dmv[i], y[0], y[1], y[2], w[e], paths)


@kernel
def _bwd_edge(dunit, dw, dms, dmv, s, v, unit, w, senders, receiver_ptr, paths, want_unit):
    n = s.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                j, y = senders[e], unit[e]
                _message_bwd_w(dw[e], dms[i], dmv[i], s[j], v[j], y[0], y[1], y[2], paths)
                if want_unit:
                    _message_bwd_unit(dunit[e], dms[i], dmv[i], s[j], v[j], w[e], paths)


@kernel
def _bwd_tan_sender(
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
def _bwd_tan_edge(
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


# ---- the table's signatures


def interaction_fwd_cpu(ms, mv, s, v, unit, w, *graph):
    C = s.shape[-1]
    _fwd(_by_path(ms, C), _by_path(mv, C), s, v, unit, _by_path(w, C), *graph)


def interaction_fwd_tan_cpu(tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph):
    C = s.shape[-1]
    ts, tv, tunit, tw = _or_zero(ts, s), _or_zero(tv, v), _or_zero(tunit, unit), _or_zero(tw, w)
    tms, tmv, tw, w = _by_path(tms, C), _by_path(tmv, C), _by_path(tw, C), _by_path(w, C)
    _fwd_tan(tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph)


def interaction_bwd_cpu(ds, dv, dunit, dw, dms, dmv, s, v, unit, w, *graph):
    senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
    C = s.shape[-1]
    dms, dmv, w = _by_path(dms, C), _by_path(dmv, C), _by_path(w, C)
    if ds is not None or dv is not None:
        ds, dv = _or_zero(ds, s), _or_zero(dv, v)
        _bwd_sender(ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths)
    if dunit is not None or dw is not None:
        want_unit = dunit is not None
        dunit, dw = dunit if want_unit else unit, np.zeros_like(w) if dw is None else _by_path(dw, C)
        _bwd_edge(dunit, dw, dms, dmv, s, v, unit, w, senders, receiver_ptr, paths, want_unit)


def interaction_bwd_tan_cpu(
    tds, tdv, tdunit, tdw, tdms, tdmv, ts, tv, tunit, tw, dms, dmv, s, v, unit, w, *graph
):
    senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
    C = s.shape[-1]
    ts, tv, tunit, tw = _or_zero(ts, s), _or_zero(tv, v), _or_zero(tunit, unit), _or_zero(tw, w)
    tdms, tdmv, dms, dmv = _by_path(tdms, C), _by_path(tdmv, C), _by_path(dms, C), _by_path(dmv, C)
    tw, w = _by_path(tw, C), _by_path(w, C)
    if tds is not None or tdv is not None:
        tds, tdv = _or_zero(tds, s), _or_zero(tdv, v)
        _bwd_tan_sender(
            tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
        )
    if tdunit is not None or tdw is not None:
        want_unit = tdunit is not None
        tdunit, tdw = tdunit if want_unit else unit, np.zeros_like(w) if tdw is None else _by_path(tdw, C)
        inputs = (ts, tv, tunit, tw, dms, dmv, s, v, unit, w)
        _bwd_tan_edge(tdunit, tdw, tdms, tdmv, *inputs, senders, receiver_ptr, paths, want_unit)


def _by_path(array, channels):
    """The same array with the paths, side by side in its last axis, on an axis of their own."""
    *lead, columns = array.shape
    return array.reshape(*lead, columns // channels, channels)


def _or_zero(array, like):
    """The array, or zeros in its place: an input that does not move, or a result that nobody asked for."""
    return np.zeros_like(like) if array is None else array
