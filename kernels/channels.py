"""The products where they meet the arrays: one channel, or a vector of them, of an edge or of all of an atom.

Shapes, and `paths`, as in `interaction`. `zero` tells what a channel is, as in `products`: a number, a
vector, or either with its tangent.
"""

from .compile import inner
from .products import R2, R3, added, message, nothing, to_sender, to_unit, to_weights
from .simd import dual, duals, fill, read, tangents, write

# ---- channel c of the arrays, or a vector of channels from there on, as `zero` is


@inner
def weights_at(w, e, c, paths, zero):
    """w_p[e, c] with the constants of the paths, of w[E, P, C]."""
    w0 = w1 = w2 = w3 = w4 = zero
    if paths[0, 0] >= 0:
        w0 = read(w, (e, paths[0, 0], c), zero)
    if paths[1, 0] >= 0:
        w1 = read(w, (e, paths[1, 0], c), zero)
    if paths[2, 0] >= 0:
        w2 = read(w, (e, paths[2, 0], c), zero)
    if paths[3, 0] >= 0:
        w3 = fill(w.dtype.type(R3), zero) * read(w, (e, paths[3, 0], c), zero)
    if paths[4, 0] >= 0:
        w4 = fill(w.dtype.type(R2), zero) * read(w, (e, paths[4, 0], c), zero)
    return w0, w1, w2, w3, w4


@inner
def add_weights(dw, e, c, q, paths, zero):
    """Add q[5] to the cotangent of an edge's weights, dw[E, P, C]."""
    t3, t2 = fill(dw.dtype.type(R3), zero), fill(dw.dtype.type(R2), zero)
    if paths[0, 0] >= 0:
        _add(dw, (e, paths[0, 0], c), q[0], zero)
    if paths[1, 0] >= 0:
        _add(dw, (e, paths[1, 0], c), q[1], zero)
    if paths[2, 0] >= 0:
        _add(dw, (e, paths[2, 0], c), q[2], zero)
    if paths[3, 0] >= 0:
        _add(dw, (e, paths[3, 0], c), t3 * q[3], zero)
    if paths[4, 0] >= 0:
        _add(dw, (e, paths[4, 0], c), t2 * q[4], zero)


@inner
def _add(array, index, x, zero):
    write(array, index, read(array, index, zero) + x)


@inner
def features_at(s, v, j, c, zero):
    """s, v_x, v_y, v_z of atom j, with v = 0 where there is none."""
    x = y = z = zero
    if v.shape[2] > 0:
        x, y, z = read(v, (j, 0, c), zero), read(v, (j, 1, c), zero), read(v, (j, 2, c), zero)
    return read(s, (j, c), zero), x, y, z


@inner
def add_features(ds, dv, j, c, g, zero):
    """Add g[4] to the cotangents ds[n, C] and dv[n, 3, C] of atom j."""
    _add(ds, (j, c), g[0], zero)
    if dv.shape[2] > 0:
        _add(dv, (j, 0, c), g[1], zero)
        _add(dv, (j, 1, c), g[2], zero)
        _add(dv, (j, 2, c), g[3], zero)


@inner
def direction_at(unit, e, zero):
    """Y of edge e."""
    return fill(unit[e, 0], zero), fill(unit[e, 1], zero), fill(unit[e, 2], zero)


@inner
def messages_at(ms, mv, i, c, paths, zero):
    """Eleven numbers of ms[n, P0, C] and mv[n, 3, P1, C], or of their cotangents, at atom i."""
    p0 = p3 = x1 = y1 = z1 = x2 = y2 = z2 = x4 = y4 = z4 = zero
    if paths[0, 0] >= 0:
        p0 = read(ms, (i, paths[0, 1], c), zero)
    if paths[3, 0] >= 0:
        p3 = read(ms, (i, paths[3, 1], c), zero)
    if paths[1, 0] >= 0:
        x1, y1, z1 = _components(mv, i, paths[1, 1], c, zero)
    if paths[2, 0] >= 0:
        x2, y2, z2 = _components(mv, i, paths[2, 1], c, zero)
    if paths[4, 0] >= 0:
        x4, y4, z4 = _components(mv, i, paths[4, 1], c, zero)
    return p0, p3, x1, y1, z1, x2, y2, z2, x4, y4, z4


@inner
def _components(mv, i, q, c, zero):
    return read(mv, (i, 0, q, c), zero), read(mv, (i, 1, q, c), zero), read(mv, (i, 2, q, c), zero)


@inner
def put_messages(ms, mv, i, c, m, paths):
    """Eleven numbers into the rows of atom i, those that the block has."""
    if paths[0, 0] >= 0:
        write(ms, (i, paths[0, 1], c), m[0])
    if paths[3, 0] >= 0:
        write(ms, (i, paths[3, 1], c), m[1])
    if paths[1, 0] >= 0:
        _put_components(mv, i, paths[1, 1], c, m[2], m[3], m[4])
    if paths[2, 0] >= 0:
        _put_components(mv, i, paths[2, 1], c, m[5], m[6], m[7])
    if paths[4, 0] >= 0:
        _put_components(mv, i, paths[4, 1], c, m[8], m[9], m[10])


@inner
def _put_components(mv, i, q, c, x, y, z):
    write(mv, (i, 0, q, c), x)
    write(mv, (i, 1, q, c), y)
    write(mv, (i, 2, q, c), z)


@inner
def messages2_at(mv, mt, i, c, paths, zero):
    """Eight numbers of filters of order 2, of mv[n, 3, P1, C] and mt[n, 5, C], or of their cotangents."""
    x = y = z = xx = yy = xy = yz = zx = zero
    if paths[5, 0] >= 0:
        x, y, z = _components(mv, i, paths[5, 1], c, zero)
    if paths[6, 0] >= 0:
        xx, yy = read(mt, (i, 0, c), zero), read(mt, (i, 1, c), zero)
        xy, yz, zx = read(mt, (i, 2, c), zero), read(mt, (i, 3, c), zero), read(mt, (i, 4, c), zero)
    return x, y, z, xx, yy, xy, yz, zx


@inner
def put_messages2(mv, mt, i, c, m, paths):
    """Eight numbers into the rows of atom i, those that the block has."""
    if paths[5, 0] >= 0:
        _put_components(mv, i, paths[5, 1], c, m[0], m[1], m[2])
    if paths[6, 0] >= 0:
        write(mt, (i, 0, c), m[3])
        write(mt, (i, 1, c), m[4])
        write(mt, (i, 2, c), m[5])
        write(mt, (i, 3, c), m[6])
        write(mt, (i, 4, c), m[7])


# ---- on a CPU: all edges of one atom, or one edge


@inner
def sent(zero, i, c, ms, mv, s, v, unit, w, senders, receiver_ptr, paths):
    with_v, want_v = v.shape[2] > 0, mv.shape[2] > 0
    m = nothing(zero)
    for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
        w_e, f = weights_at(w, e, c, paths, zero), features_at(s, v, senders[e], c, zero)
        m = added(m, message(w_e, f, direction_at(unit, e, zero), zero, with_v, want_v))
    put_messages(ms, mv, i, c, m, paths)


@inner
def sent_tan(zero, i, c, tms, tmv, ts, tv, tunit, tw, s, v, unit, w, senders, receiver_ptr, paths):
    with_v, want_v, none = v.shape[2] > 0, tmv.shape[2] > 0, dual(zero, zero)
    m = nothing(zero)
    for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
        j = senders[e]
        w_e = duals(weights_at(w, e, c, paths, zero), weights_at(tw, e, c, paths, zero))
        f = duals(features_at(s, v, j, c, zero), features_at(ts, tv, j, c, zero))
        y = duals(direction_at(unit, e, zero), direction_at(tunit, e, zero))
        m = added(m, tangents(message(w_e, f, y, none, with_v, want_v)))
    put_messages(tms, tmv, i, c, m, paths)


@inner
def sender_gets(zero, j, c, ds, dv, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths):
    with_v, want_v = dv.shape[2] > 0, dmv.shape[2] > 0
    s = x = y = z = zero
    for p in range(sender_ptr[j], sender_ptr[j + 1]):
        e = sender_perm[p]
        w_e, a = weights_at(w, e, c, paths, zero), messages_at(dms, dmv, receivers[e], c, paths, zero)
        g = to_sender(w_e, a, direction_at(unit, e, zero), zero, with_v, want_v)
        s, x, y, z = s + g[0], x + g[1], y + g[2], z + g[3]
    add_features(ds, dv, j, c, (s, x, y, z), zero)


@inner
def sender_gets_tan(
    zero, j, c, tds, tdv, tdms, tdmv, tunit, tw, dms, dmv, unit, w, receivers, sender_perm, sender_ptr, paths
):
    with_v, want_v, none = tdv.shape[2] > 0, dmv.shape[2] > 0, dual(zero, zero)
    s = x = y = z = zero
    for p in range(sender_ptr[j], sender_ptr[j + 1]):
        e = sender_perm[p]
        i = receivers[e]
        w_e = duals(weights_at(w, e, c, paths, zero), weights_at(tw, e, c, paths, zero))
        a = duals(messages_at(dms, dmv, i, c, paths, zero), messages_at(tdms, tdmv, i, c, paths, zero))
        unit_e = duals(direction_at(unit, e, zero), direction_at(tunit, e, zero))
        g = tangents(to_sender(w_e, a, unit_e, none, with_v, want_v))
        s, x, y, z = s + g[0], x + g[1], y + g[2], z + g[3]
    add_features(tds, tdv, j, c, (s, x, y, z), zero)


@inner
def edge_gets(zero, e, c, dw, dms, dmv, s, v, unit, w, i, j, paths):
    """Adds to dw; returns dY of these channels."""
    with_v, want_v = v.shape[2] > 0, dmv.shape[2] > 0
    f, a = features_at(s, v, j, c, zero), messages_at(dms, dmv, i, c, paths, zero)
    q = to_weights(f, a, direction_at(unit, e, zero), zero, with_v, want_v)
    add_weights(dw, e, c, q, paths, zero)
    return to_unit(weights_at(w, e, c, paths, zero), f, a, zero, with_v, want_v)


@inner
def edge_gets_tan(zero, e, c, tdw, tdms, tdmv, ts, tv, tunit, tw, dms, dmv, s, v, unit, w, i, j, paths):
    """Adds to tdw; returns the tangent of dY of these channels."""
    with_v, want_v, none = v.shape[2] > 0, dmv.shape[2] > 0, dual(zero, zero)
    w_e = duals(weights_at(w, e, c, paths, zero), weights_at(tw, e, c, paths, zero))
    f = duals(features_at(s, v, j, c, zero), features_at(ts, tv, j, c, zero))
    a = duals(messages_at(dms, dmv, i, c, paths, zero), messages_at(tdms, tdmv, i, c, paths, zero))
    y = duals(direction_at(unit, e, zero), direction_at(tunit, e, zero))
    add_weights(tdw, e, c, tangents(to_weights(f, a, y, none, with_v, want_v)), paths, zero)
    return tangents(to_unit(w_e, f, a, none, with_v, want_v))
