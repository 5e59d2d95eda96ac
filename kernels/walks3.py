"""What both compiled walks have besides where there are filters of order 3: third moments.

Rows of an atom, besides those of `walks2`:

    m[26, C]      after the 19: seven numbers of the third moments
    a[16, 2 D]    after the 9: the products' factors O
    b[4, 6 D]     more products, see `third_products`

The edges are walked a third time, for one path. O of the edges, third[E, 7], is made once in a walk and kept:
from Y it would take more operations than what is done with it. The reverse of an edge has -O.
"""

import numpy as np

from .compile import inner, routine
from .edge_tensor3 import A, back3, third_of, third_tan
from .simd import WIDTH, dual, duals, load, splat, spread, store, tangents, total
from .third_products import added7, dot7, scaled7

ROWS3, THIRD = 26, 19  # rows of m, and the first of the third moments
FACTOR = 9  # the first row of O in a


# ---- rows of an atom and of an edge


@inner
def _moments(m, i, c):
    """Seven numbers of m[n, 26, C] at atom i, or of their cotangents."""
    return (
        *(load(m, (i, THIRD, c)), load(m, (i, THIRD + 1, c)), load(m, (i, THIRD + 2, c))),
        *(load(m, (i, THIRD + 3, c)), load(m, (i, THIRD + 4, c)), load(m, (i, THIRD + 5, c))),
        load(m, (i, THIRD + 6, c)),
    )


@inner
def _store(m, c, found):
    """Seven numbers into m[26, C]."""
    store(m, (THIRD, c), found[0])
    store(m, (THIRD + 1, c), found[1])
    store(m, (THIRD + 2, c), found[2])
    store(m, (THIRD + 3, c), found[3])
    store(m, (THIRD + 4, c), found[4])
    store(m, (THIRD + 5, c), found[5])
    store(m, (THIRD + 6, c), found[6])


@inner
def _third(third, e):
    """O of edge e."""
    return (
        *(spread(third, (e, 0)), spread(third, (e, 1)), spread(third, (e, 2)), spread(third, (e, 3))),
        *(spread(third, (e, 4)), spread(third, (e, 5)), spread(third, (e, 6))),
    )


@inner
def _weight(W, k, h, e, other, companion):
    """w7 of two rows of h, as `walks.radial_weights`."""
    a = b = splat(W.dtype.type(0))
    for q in range(h.shape[2]):
        w = load(W, (k, q, 0))
        a, b = a + spread(h, (e, 0, q)) * w, b + spread(h, (other, companion, q)) * w
    return a, b


@inner
def _seven(x):
    return x, x, x, x, x, x, x


# ---- O of edges


@routine
def set_third(third, unit, lo, hi):
    """third[E, 7] of edges lo : hi."""
    for e in range(lo, hi):
        found = third_of(unit[e, 0], unit[e, 1], unit[e, 2], unit.dtype.type(A))
        third[e, 0], third[e, 1], third[e, 2], third[e, 3] = found[0], found[1], found[2], found[3]
        third[e, 4], third[e, 5], third[e, 6] = found[4], found[5], found[6]


@routine
def set_third_tan(tthird, tunit, unit, lo, hi):
    for e in range(lo, hi):
        y, t = (unit[e, 0], unit[e, 1], unit[e, 2]), (tunit[e, 0], tunit[e, 1], tunit[e, 2])
        found = third_tan(y[0], y[1], y[2], t[0], t[1], t[2], unit.dtype.type(A))
        tthird[e, 0], tthird[e, 1], tthird[e, 2], tthird[e, 3] = found[0], found[1], found[2], found[3]
        tthird[e, 4], tthird[e, 5], tthird[e, 6] = found[4], found[5], found[6]


# ---- edges


@inner
def messages3(m, u, h, W, third, senders, lo, hi):
    """Their rows of m[26, C], of edges lo : hi, two at a time."""
    L = WIDTH // u.itemsize
    for k in range(W.shape[0]):
        c, found = k * L, _seven(splat(u.dtype.type(0)))
        for e in range(lo, hi, 2):
            other = min(e + 1, hi - 1)
            there = splat(u.dtype.type(other - e))  # 0 where an odd edge has no partner
            a, b = _weight(W, k, h, e, other, np.int64(0))
            found = added7(found, scaled7(a * load(u, (senders[e], 0, c)), _third(third, e)))
            b = there * b * load(u, (senders[other], 0, c))
            found = added7(found, scaled7(b, _third(third, other)))
        _store(m, c, found)


@inner
def messages3_tan(tm, tu, u, h, W, tthird, third, senders, lo, hi):
    """The same of the tangents."""
    L = WIDTH // u.itemsize
    for k in range(W.shape[0]):
        c, found = k * L, _seven(splat(u.dtype.type(0)))
        for e in range(lo, hi):
            j = senders[e]
            w, tw = _weight(W, k, h, e, e, np.int64(1))
            ws = dual(w, tw) * dual(load(u, (j, 0, c)), load(tu, (j, 0, c)))
            found = added7(found, tangents(scaled7(ws, duals(_third(third, e), _third(tthird, e)))))
        _store(tm, c, found)


@inner
def edge_back3(du, u, dm, i, j, c, o, w):
    """As `walks2.edge_back2`: adds to du[4, C] of atom i; what edge j -> i gives back to w7, and its dO."""
    s, a = load(u, (j, 0, c)), _moments(dm, i, c)
    store(du, (0, c), load(du, (0, c)) - w * dot7(o, _moments(dm, j, c)))
    return s * dot7(o, a), scaled7(w * s, a)


@inner
def edges_back3(du, dy, i, dm, u, h, W, unit, third, senders, lo, hi):
    """Adds to du[4, C] of atom i and to the edges' dE/dY and dE/dr in dy, as the force call walks back."""
    L = WIDTH // u.itemsize
    for e in range(lo, hi):
        zero, j, o = splat(u.dtype.type(0)), senders[e], _third(third, e)
        g, gr = _seven(zero), zero
        for k in range(W.shape[0]):
            w, dw = _weight(W, k, h, e, e, np.int64(1))
            to_w, to_o = edge_back3(du, u, dm, i, j, k * L, o, w)
            g, gr = added7(g, to_o), gr + dw * to_w
        gx, gy, gz = _to_direction(unit, e, g)
        dy[e, 0] += gx
        dy[e, 1] += gy
        dy[e, 2] += gz
        dy[e, 3] += total(gr)


@inner
def _to_direction(unit, e, g):
    """dY of edge e, numbers, from dO, vectors of channels."""
    g0, g1, g2, g3, g4, g5, g6 = g
    sums = total(g0), total(g1), total(g2), total(g3), total(g4), total(g5), total(g6)
    return back3(unit[e, 0], unit[e, 1], unit[e, 2], sums, unit.dtype.type(A))


@inner
def hidden_back3(du, dunit, dh, gh, i, dm, u, h, W, unit, third, senders, lo, hi):
    """Adds to du[4, C] of atom i, and to the edges' dunit and dh, as training walks back."""
    L = WIDTH // u.itemsize
    for e in range(lo, hi):
        zero, j, o = splat(u.dtype.type(0)), senders[e], _third(third, e)
        g = _seven(zero)
        for q in range(W.shape[1]):
            store(gh, (q, 0), zero)
        for k in range(W.shape[0]):
            w, _ = _weight(W, k, h, e, e, np.int64(0))
            to_w, to_o = edge_back3(du, u, dm, i, j, k * L, o, w)
            g = added7(g, to_o)
            for q in range(W.shape[1]):
                store(gh, (q, 0), load(gh, (q, 0)) + to_w * load(W, (k, q, 0)))
        gx, gy, gz = _to_direction(unit, e, g)
        dunit[e, 0] += gx
        dunit[e, 1] += gy
        dunit[e, 2] += gz
        for q in range(W.shape[1]):
            dh[e, 0, q] += total(load(gh, (q, 0)))


@inner
def hidden_back3_tan(tdu, dh, tdW, gh, i, tdm, dm, tu, u, h, W, tthird, third, senders, lo, hi):
    """The same of the tangents; adds the edges' h^T tq + th^T q to tdW."""
    L = WIDTH // u.itemsize
    for e in range(lo, hi):
        zero, j, o = splat(u.dtype.type(0)), senders[e], duals(_third(third, e), _third(tthird, e))
        for q in range(W.shape[1]):
            store(gh, (q, 0), zero)
        for k in range(W.shape[0]):
            c = k * L
            w, tw = _weight(W, k, h, e, e, np.int64(1))
            there = dot7(o, duals(_moments(dm, j, c), _moments(tdm, j, c)))
            store(tdu, (0, c), load(tdu, (0, c)) - (dual(w, tw) * there).tangent)
            s = dual(load(u, (j, 0, c)), load(tu, (j, 0, c)))
            to_w = s * dot7(o, duals(_moments(dm, i, c), _moments(tdm, i, c)))
            for q in range(W.shape[1]):
                store(gh, (q, 0), load(gh, (q, 0)) + to_w.tangent * load(W, (k, q, 0)))
                hidden = dual(spread(h, (e, 0, q)), spread(h, (e, 1, q)))
                store(tdW, (k, q, 0), load(tdW, (k, q, 0)) + (hidden * to_w).tangent)
        for q in range(W.shape[1]):
            dh[e, 1, q] += total(load(gh, (q, 0)))
