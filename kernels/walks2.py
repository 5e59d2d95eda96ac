"""What both compiled walks have besides where there are filters of order 2 or products on atoms.

Rows of an atom, besides those of `walks`; messages have one more path into vectors, p5, in each component:

    m[19, C]      p0, p3 | p1_x, p2_x, p4_x, p5_x | ..._y | ..._z | second moments xx, yy, xy, yz, zx
    a[9, 2 D]     factors of the products: s, v_x, v_y, v_z, T's five; A's columns, then B's
    b[4, 4 D]     the products: ps; pv_x, pv_y, pv_z in the first 3 D columns

and more of each with filters of order 3, see `walks3`.

D channels of a product are padded to whole vectors as well. The edges are walked once more: a second loop for
the two products, whose numbers would not find room in registers beside those of the five. M is the same for
an edge and its reverse.
"""

import numpy as np

from .compile import inner, routine
from .edge_tensor import back
from .node_products import multiply, multiply_back, multiply_back_tan, multiply_tan
from .products import added2, message2, nothing2, to_sender2, to_tensor, to_weights2
from .simd import WIDTH, dual, duals, load, splat, spread, store, tangents, total
from .walks import BACK, FACTORS, FACTORS_O, FACTORS_T, TAKE, add_seen, clear, mix, seen

ROWS = 19
P5, SECOND = 5, 14  # rows of m: p5_x, and the first of the second moments


# ---- rows of an atom


@inner
def _of(m, i, c, with_v):
    """Eight numbers of m[n, 19, C] at atom i, or of their cotangents."""
    x = y = z = splat(m.dtype.type(0))
    if with_v:
        x, y, z = load(m, (i, P5, c)), load(m, (i, P5 + 4, c)), load(m, (i, P5 + 8, c))
    xx, yy, xy = load(m, (i, SECOND, c)), load(m, (i, SECOND + 1, c)), load(m, (i, SECOND + 2, c))
    return x, y, z, xx, yy, xy, load(m, (i, SECOND + 3, c)), load(m, (i, SECOND + 4, c))


@inner
def _store(m, c, found, with_v):
    """Eight numbers into m[19, C]."""
    if with_v:
        store(m, (P5, c), found[0])
        store(m, (P5 + 4, c), found[1])
        store(m, (P5 + 8, c), found[2])
    store(m, (SECOND, c), found[3])
    store(m, (SECOND + 1, c), found[4])
    store(m, (SECOND + 2, c), found[5])
    store(m, (SECOND + 3, c), found[6])
    store(m, (SECOND + 4, c), found[7])


@inner
def _tensor(unit, e):
    """M of edge e."""
    x, y, z = unit[e, 0], unit[e, 1], unit[e, 2]
    one = unit.dtype.type(1)
    return (
        *(splat(x * x - one), splat(y * y - one), splat(z * z - one)),
        *(splat(x * y), splat(y * z), splat(z * x)),
    )


@inner
def _tensor_tan(tunit, unit, e):
    x, y, z, tx, ty, tz = unit[e, 0], unit[e, 1], unit[e, 2], tunit[e, 0], tunit[e, 1], tunit[e, 2]
    return (
        *(splat(x * tx + x * tx), splat(y * ty + y * ty), splat(z * tz + z * tz)),
        *(splat(x * ty + y * tx), splat(y * tz + z * ty), splat(z * tx + x * tz)),
    )


@inner
def _weights(W, k, h, e, other, companion, with_v):
    """w5 and w6 of two rows of h, as `walks.radial_weights`."""
    L = W.shape[2] // 2
    w5 = w6 = t5 = t6 = splat(W.dtype.type(0))
    for q in range(h.shape[2]):
        ha, hb = spread(h, (e, 0, q)), spread(h, (other, companion, q))
        if with_v:
            w = load(W, (k, q, 0))
            w5, t5 = w5 + ha * w, t5 + hb * w
        w = load(W, (k, q, L))
        w6, t6 = w6 + ha * w, t6 + hb * w
    return (w5, w6), (t5, t6)


# ---- edges


@inner
def messages2(m, u, h, W, unit, senders, lo, hi, with_v):
    """Their rows of m[19, C], of edges lo : hi, two at a time."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    for k in range(W.shape[0]):
        c, found = k * L, nothing2(zero)
        for e in range(lo, hi, 2):
            other = min(e + 1, hi - 1)
            there = splat(u.dtype.type(other - e))  # 0 where an odd edge has no partner
            w, (b5, b6) = _weights(W, k, h, e, other, np.int64(0), with_v)
            f = seen(u, senders[e], c, with_v)
            found = added2(found, message2(w, f, _tensor(unit, e), zero, with_v))
            w, f = (there * b5, there * b6), seen(u, senders[other], c, with_v)
            found = added2(found, message2(w, f, _tensor(unit, other), zero, with_v))
        _store(m, c, found, with_v)


@inner
def messages2_tan(tm, tu, u, h, W, tunit, unit, senders, lo, hi, with_v):
    """The same of the tangents."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    for k in range(W.shape[0]):
        c, found = k * L, nothing2(zero)
        for e in range(lo, hi):
            w, tw = _weights(W, k, h, e, e, np.int64(1), with_v)
            f = duals(seen(u, senders[e], c, with_v), seen(tu, senders[e], c, with_v))
            t = duals(_tensor(unit, e), _tensor_tan(tunit, unit, e))
            found = added2(found, tangents(message2(duals(w, tw), f, t, dual(zero, zero), with_v)))
        _store(tm, c, found, with_v)


@inner
def edge_back2(du, u, dm, i, j, c, t, w, with_v):
    """As `walks.edge_back`; with the edge's dM."""
    zero = splat(u.dtype.type(0))
    f, a = seen(u, j, c, with_v), _of(dm, i, c, with_v)
    add_seen(du, c, to_sender2(w, _of(dm, j, c, with_v), t, zero, with_v), with_v)
    return to_weights2(f, a, t, zero, with_v), to_tensor(w, f, a, zero, with_v)


@inner
def edges_back2(du, dy, i, dm, u, h, W, unit, senders, lo, hi, with_v):
    """Adds to du[4, C] of atom i and to the edges' dE/dY and dE/dr in dy, as the force call walks back."""
    L = WIDTH // u.itemsize
    for e in range(lo, hi):
        t, zero = _tensor(unit, e), splat(u.dtype.type(0))
        g0 = g1 = g2 = g3 = g4 = g5 = gr = zero
        for k in range(W.shape[0]):
            w, dw = _weights(W, k, h, e, e, np.int64(1), with_v)
            q, g = edge_back2(du, u, dm, i, senders[e], k * L, t, w, with_v)
            g0, g1, g2, g3, g4, g5 = g0 + g[0], g1 + g[1], g2 + g[2], g3 + g[3], g4 + g[4], g5 + g[5]
            gr = gr + dw[0] * q[0] + dw[1] * q[1]
        gx, gy, gz = _to_direction(unit, e, (g0, g1, g2, g3, g4, g5))
        dy[e, 0] += total(gx)
        dy[e, 1] += total(gy)
        dy[e, 2] += total(gz)
        dy[e, 3] += total(gr)


@inner
def _to_direction(unit, e, g):
    return back(spread(unit, (e, 0)), spread(unit, (e, 1)), spread(unit, (e, 2)), g)


@inner
def hidden_back2(du, dunit, dh, gh, i, dm, u, h, W, unit, senders, lo, hi, with_v):
    """Adds to du[4, C] of atom i, and to the edges' dunit and dh, as training walks back."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    for e in range(lo, hi):
        t = _tensor(unit, e)
        g0 = g1 = g2 = g3 = g4 = g5 = zero
        for q in range(W.shape[1]):
            store(gh, (q, 0), zero)
        for k in range(W.shape[0]):
            w, _ = _weights(W, k, h, e, e, np.int64(0), with_v)
            to_w, g = edge_back2(du, u, dm, i, senders[e], k * L, t, w, with_v)
            g0, g1, g2, g3, g4, g5 = g0 + g[0], g1 + g[1], g2 + g[2], g3 + g[3], g4 + g[4], g5 + g[5]
            for q in range(W.shape[1]):
                _add_hidden(gh, W, k, q, to_w, with_v)
        gx, gy, gz = _to_direction(unit, e, (g0, g1, g2, g3, g4, g5))
        dunit[e, 0] += total(gx)
        dunit[e, 1] += total(gy)
        dunit[e, 2] += total(gz)
        for q in range(W.shape[1]):
            dh[e, 0, q] += total(load(gh, (q, 0)))


@inner
def _add_hidden(gh, W, k, q, to_w, with_v):
    """Add what hidden number q gets back from the weights of a vector of channels to gh[q]."""
    L = W.shape[2] // 2
    g = load(gh, (q, 0)) + to_w[1] * load(W, (k, q, L))
    if with_v:
        g = g + to_w[0] * load(W, (k, q, 0))
    store(gh, (q, 0), g)


@inner
def hidden_back2_tan(tdu, dh, tdW, gh, i, tdm, dm, tu, u, h, W, tunit, unit, senders, lo, hi, with_v):
    """The same of the tangents; adds the edges' h^T tq + th^T q to tdW."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    none = dual(zero, zero)
    for e in range(lo, hi):
        j = senders[e]
        t = duals(_tensor(unit, e), _tensor_tan(tunit, unit, e))
        for q in range(W.shape[1]):
            store(gh, (q, 0), zero)
        for k in range(W.shape[0]):
            c = k * L
            w, tw = _weights(W, k, h, e, e, np.int64(1), with_v)
            f = duals(seen(u, j, c, with_v), seen(tu, j, c, with_v))
            a = duals(_of(dm, i, c, with_v), _of(tdm, i, c, with_v))
            to_w = to_weights2(f, a, t, none, with_v)
            there = duals(_of(dm, j, c, with_v), _of(tdm, j, c, with_v))
            add_seen(tdu, c, tangents(to_sender2(duals(w, tw), there, t, none, with_v)), with_v)
            for q in range(W.shape[1]):
                hidden = dual(spread(h, (e, 0, q)), spread(h, (e, 1, q)))
                _add_hidden(gh, W, k, q, tangents(to_w), with_v)
                if with_v:
                    store(tdW, (k, q, 0), load(tdW, (k, q, 0)) + (hidden * to_w[0]).tangent)
                store(tdW, (k, q, L), load(tdW, (k, q, L)) + (hidden * to_w[1]).tangent)
        for q in range(W.shape[1]):
            dh[e, 1, q] += total(load(gh, (q, 0)))


# ---- atoms: projections and products, n of them; vectors, tensors, thirds: columns of factors of an order


@inner
def _factors(a, vectors, tensors, thirds):
    """s, v, t and o of a[n, ., 2 D], as `node_products` takes them."""
    return a[:, 0], a[:, 1:4, :vectors], a[:, 4:9, :tensors], a[:, 9:, :thirds]


@inner
def _products(b, vectors):
    """ps and pv of b[n, 4, .]."""
    return b[:, 0], b[:, 1:4, : 2 * vectors]


@routine
def factors_of(a, a_first, m, m_first, first, n, layout, k, weights, species_ptr):
    """a of n atoms, `first` the first of them, from their messages."""
    clear(a, a_first, n)
    for of_v in range(2):
        mix(a, a_first, m, m_first, first, n, layout, k, FACTORS + of_v, weights, species_ptr)
    for role in (FACTORS_T, FACTORS_O):
        mix(a, a_first, m, m_first, first, n, layout, k, np.int64(role), weights, species_ptr)


@routine
def factors_back(dm, dm_first, da, da_first, first, n, layout, k, turned, species_ptr):
    """Adds what messages get back from a's cotangent."""
    for of_v in range(2):
        mix(dm, dm_first, da, da_first, first, n, layout, k, BACK + FACTORS + of_v, turned, species_ptr)
    for role in (FACTORS_T, FACTORS_O):
        mix(dm, dm_first, da, da_first, first, n, layout, k, np.int64(BACK + role), turned, species_ptr)


@routine
def take(p, p_first, b, b_first, first, n, layout, k, weights, species_ptr):
    """Adds what the gate takes from the products."""
    for of_v in range(2):
        mix(p, p_first, b, b_first, first, n, layout, k, TAKE + of_v, weights, species_ptr)


@routine
def take_back(db, db_first, dp, dp_first, first, n, layout, k, turned, species_ptr):
    """db of n atoms, from dp."""
    clear(db, db_first, n)
    for of_v in range(2):
        mix(db, db_first, dp, dp_first, first, n, layout, k, BACK + TAKE + of_v, turned, species_ptr)


@routine
def multiply_rows(b, a, vectors, tensors, thirds):
    """b[n, 4, .] of the factors a[n, ., 2 D]."""
    clear(b, np.int64(0), b.shape[0])
    ps, pv = _products(b, vectors)
    s, v, t, o = _factors(a, vectors, tensors, thirds)
    for i in range(a.shape[0]):
        for c in range(0, a.shape[2] // 2, WIDTH // a.itemsize):
            multiply(splat(a.dtype.type(0)), i, c, ps, pv, s, v, t, o)


@routine
def multiply_rows_tan(tb, ta, a, vectors, tensors, thirds):
    clear(tb, np.int64(0), tb.shape[0])
    tps, tpv = _products(tb, vectors)
    s, v, t, o = _factors(a, vectors, tensors, thirds)
    ts, tv, tt, to = _factors(ta, vectors, tensors, thirds)
    for i in range(a.shape[0]):
        for c in range(0, a.shape[2] // 2, WIDTH // a.itemsize):
            multiply_tan(splat(a.dtype.type(0)), i, c, tps, tpv, ts, tv, tt, to, s, v, t, o)


@routine
def multiply_rows_back(da, db, a, vectors, tensors, thirds):
    """da, from db."""
    clear(da, np.int64(0), da.shape[0])
    dps, dpv = _products(db, vectors)
    s, v, t, o = _factors(a, vectors, tensors, thirds)
    ds, dv, dt, do = _factors(da, vectors, tensors, thirds)
    for i in range(a.shape[0]):
        for c in range(0, a.shape[2] // 2, WIDTH // a.itemsize):
            multiply_back(splat(a.dtype.type(0)), i, c, ds, dv, dt, do, dps, dpv, s, v, t, o)


@routine
def multiply_rows_back_tan(tda, tdb, ta, db, a, vectors, tensors, thirds):
    clear(tda, np.int64(0), tda.shape[0])
    tdps, tdpv = _products(tdb, vectors)
    dps, dpv = _products(db, vectors)
    s, v, t, o = _factors(a, vectors, tensors, thirds)
    ts, tv, tt, to = _factors(ta, vectors, tensors, thirds)
    tds, tdv, tdt, tdo = _factors(tda, vectors, tensors, thirds)
    for i in range(a.shape[0]):
        for c in range(0, a.shape[2] // 2, WIDTH // a.itemsize):
            multiply_back_tan(
                *(splat(a.dtype.type(0)), i, c, tds, tdv, tdt, tdo, tdps, tdpv),
                *(ts, tv, tt, to, dps, dpv, s, v, t, o),
            )
