"""Products on an atom, channel by channel: of two projections A = (s, v, T, O) and B = (s', v', T') of its
messages.

    ps = [s s' | v . v' / sqrt 3 | T : T' / sqrt 5 | v . q / sqrt 3 | v . p / sqrt 3 |
          O : O' sqrt(4/175)]
    pv = [s v' | v x v' / sqrt 2 | q | p],    q = sqrt(3/5) T v',    p = sqrt(6/35) O : T'

They raise the body order: an atom's sums over its neighbours, multiplied, see pairs of neighbours, and with
second moments their angles. T is symmetric and traceless; five numbers of it are kept, xx, yy, xy, yz, zx,
and zz = -xx - yy. Without third moments what has O is left out (see `third_products`), without second moments
what has T, without vectors all but s s'.

Backward, for cotangents b of ps, and P, Q, R of pv (constants in), with R' = R + b4 v:

    ds = b1 s' + P . v'                      ds' = b1 s
    dv = b2 v' + v' x Q + b4 T v'            dv' = b2 v + s P + Q x v + T R'
    dT = b3 T'^ + (R' v'^T)^                 dT' = b3 T^

where X^ are the derivatives by the five numbers: of T : T', (2 xx' + yy', 2 yy' + xx', 2 xy', 2 yz', 2 zx');
of R . T v', (Rx x' - Rz z', Ry y' - Rz z', Rx y' + Ry x', Ry z' + Rz y', Rz x' + Rx z').

Apart from b4 and R' all of this is linear in each of A, B and the cotangents, so that tangents are sums of
the same functions with one of them moved; v . q moves by tv . q + v . tq, and R' by tR + tb4 v + b4 tv.

Shapes: s[n, 2 D], v[n, 3, 2 D or 0], t[n, 5, 2 D or 0], o[n, 7, 2 D or 0], columns of A before those of B;
ps[n, k D], pv[n, 3, k D or 0], k the number of products that there are; none has a unit.
Threads share chunks of atoms.
"""

from functools import partial

import numpy as np
from numba import prange

from . import cuda as gpu
from .arguments import or_zero
from .compile import inner, kernel
from .products import R2, R3
from .simd import WIDTH, fill, read, splat, write
from .third_products import multiply3, multiply3_back, multiply3_back_tan, multiply3_tan

cuda = None  # see cuda.py
CHUNK = 16
R5 = 1.0 / np.sqrt(5.0)
R35 = np.sqrt(3.0 / 5.0)


# ---- one channel, a number or a vector of channels


@inner
def _forward(a, b, zero, with_v, with_t):
    """The first three scalars, three vectors, without constants."""
    s, x, y, z, xx, yy, xy, yz, zx = a
    q, p, r, o, pp, rr, pr, ro, op = b  # s', then x', y', z' and T'
    vv = tt = sx = sy = sz = cx = cy = cz = tx = ty = tz = zero
    if with_v:
        vv = x * p + y * r + z * o
        sx, sy, sz = s * p, s * r, s * o
        cx, cy, cz = y * o - z * r, z * p - x * o, x * r - y * p
    if with_t:
        off = xy * pr + yz * ro + zx * op
        tt = xx * pp + yy * rr + (xx + yy) * (pp + rr) + off + off
        tx, ty = xx * p + xy * r + zx * o, xy * p + yy * r + yz * o
        tz = zx * p + yz * r - (xx + yy) * o
    return s * q, vv, tt, sx, sy, sz, cx, cy, cz, tx, ty, tz


@inner
def _to_a(b, d, zero, with_v, with_t):
    """What A gets back, nine numbers, from the twelve d."""
    q, p, r, o, pp, rr, pr, ro, op = b
    b1, b2, b3, px, py, pz, qx, qy, qz, rx, ry, rz = d
    s = b1 * q
    x = y = z = xx = yy = xy = yz = zx = zero
    if with_v:
        s = s + px * p + py * r + pz * o
        x, y, z = b2 * p + r * qz - o * qy, b2 * r + o * qx - p * qz, b2 * o + p * qy - r * qx
    if with_t:
        both, along = b3 * (pp + rr), rz * o
        xx, yy = both + b3 * pp + rx * p - along, both + b3 * rr + ry * r - along
        xy, yz, zx = b3 * pr, b3 * ro, b3 * op
        xy, yz, zx = xy + xy + rx * r + ry * p, yz + yz + ry * o + rz * r, zx + zx + rz * p + rx * o
    return s, x, y, z, xx, yy, xy, yz, zx


@inner
def _to_b(a, d, zero, with_v, with_t):
    """What B gets back."""
    s, x, y, z, xx, yy, xy, yz, zx = a
    b1, b2, b3, px, py, pz, qx, qy, qz, rx, ry, rz = d
    p = r = o = pp = rr = pr = ro = op = zero
    if with_v:
        p = b2 * x + s * px + qy * z - qz * y
        r = b2 * y + s * py + qz * x - qx * z
        o = b2 * z + s * pz + qx * y - qy * x
    if with_t:
        p, r = p + xx * rx + xy * ry + zx * rz, r + xy * rx + yy * ry + yz * rz
        o = o + zx * rx + yz * ry - (xx + yy) * rz
        both = b3 * (xx + yy)
        pp, rr, pr, ro, op = both + b3 * xx, both + b3 * yy, b3 * xy, b3 * yz, b3 * zx
        pr, ro, op = pr + pr, ro + ro, op + op
    return b1 * s, p, r, o, pp, rr, pr, ro, op


# ---- channel c of an atom's rows; `first` is the column of A or of B


@inner
def factor_at(s, v, t, i, c, first, zero):
    """Nine numbers of A or B."""
    k = first + c
    x = y = z = xx = yy = xy = yz = zx = zero
    if v.shape[2] > 0:
        x, y, z = read(v, (i, 0, k), zero), read(v, (i, 1, k), zero), read(v, (i, 2, k), zero)
    if t.shape[2] > 0:
        xx, yy = read(t, (i, 0, k), zero), read(t, (i, 1, k), zero)
        xy, yz, zx = read(t, (i, 2, k), zero), read(t, (i, 3, k), zero), read(t, (i, 4, k), zero)
    return read(s, (i, k), zero), x, y, z, xx, yy, xy, yz, zx


@inner
def add_factor(ds, dv, dt, i, c, first, g, zero):
    """Add nine numbers to its cotangents."""
    k = first + c
    write(ds, (i, k), read(ds, (i, k), zero) + g[0])
    if dv.shape[2] > 0:
        write(dv, (i, 0, k), read(dv, (i, 0, k), zero) + g[1])
        write(dv, (i, 1, k), read(dv, (i, 1, k), zero) + g[2])
        write(dv, (i, 2, k), read(dv, (i, 2, k), zero) + g[3])
    if dt.shape[2] > 0:
        write(dt, (i, 0, k), read(dt, (i, 0, k), zero) + g[4])
        write(dt, (i, 1, k), read(dt, (i, 1, k), zero) + g[5])
        write(dt, (i, 2, k), read(dt, (i, 2, k), zero) + g[6])
        write(dt, (i, 3, k), read(dt, (i, 3, k), zero) + g[7])
        write(dt, (i, 4, k), read(dt, (i, 4, k), zero) + g[8])


@inner
def _add_products(ps, pv, i, c, D, found, last, with_t, zero):
    """Add twelve numbers of `_forward` and v . T v' to the products, with their constants."""
    number = ps.dtype.type
    k3, k2 = fill(number(R3), zero), fill(number(R2), zero)
    _add_scalar(ps, i, c, found[0], zero)
    if pv.shape[2] > 0:
        _add_scalar(ps, i, D + c, k3 * found[1], zero)
        _add_vector(pv, i, c, found[3], found[4], found[5], zero)
        _add_vector(pv, i, D + c, k2 * found[6], k2 * found[7], k2 * found[8], zero)
    if with_t:
        k5, k35 = fill(number(R5), zero), fill(number(R35), zero)
        _add_scalar(ps, i, 2 * D + c, k5 * found[2], zero)
        _add_scalar(ps, i, 3 * D + c, k3 * k35 * last, zero)
        _add_vector(pv, i, 2 * D + c, k35 * found[9], k35 * found[10], k35 * found[11], zero)


@inner
def _add_scalar(ps, i, k, x, zero):
    write(ps, (i, k), read(ps, (i, k), zero) + x)


@inner
def _add_vector(pv, i, k, x, y, z, zero):
    write(pv, (i, 0, k), read(pv, (i, 0, k), zero) + x)
    write(pv, (i, 1, k), read(pv, (i, 1, k), zero) + y)
    write(pv, (i, 2, k), read(pv, (i, 2, k), zero) + z)


@inner
def _products_at(dps, dpv, i, c, D, with_t, zero):
    """The products' cotangents b1, b2, b3, P, Q, R, and b4, with the constants."""
    number = dps.dtype.type
    k3, k2 = fill(number(R3), zero), fill(number(R2), zero)
    b1 = read(dps, (i, c), zero)
    b2 = b3 = b4 = px = py = pz = qx = qy = qz = rx = ry = rz = zero
    if dpv.shape[2] > 0:
        b2 = k3 * read(dps, (i, D + c), zero)
        px, py, pz = read(dpv, (i, 0, c), zero), read(dpv, (i, 1, c), zero), read(dpv, (i, 2, c), zero)
        k = D + c
        qx, qy, qz = read(dpv, (i, 0, k), zero), read(dpv, (i, 1, k), zero), read(dpv, (i, 2, k), zero)
        qx, qy, qz = k2 * qx, k2 * qy, k2 * qz
    if with_t:
        k, k35 = 2 * D + c, fill(number(R35), zero)
        b3, b4 = fill(number(R5), zero) * read(dps, (i, k), zero), k3 * k35 * read(dps, (i, D + k), zero)
        rx, ry, rz = read(dpv, (i, 0, k), zero), read(dpv, (i, 1, k), zero), read(dpv, (i, 2, k), zero)
        rx, ry, rz = k35 * rx, k35 * ry, k35 * rz
    return (b1, b2, b3, px, py, pz, qx, qy, qz, rx, ry, rz), b4


@inner
def _dot3(a, found):
    """v . T v', of A and what `_forward` found."""
    return a[1] * found[9] + a[2] * found[10] + a[3] * found[11]


@inner
def _grown(d, b4, a):
    """d with R' in the place of R."""
    b1, b2, b3, px, py, pz, qx, qy, qz, rx, ry, rz = d
    return b1, b2, b3, px, py, pz, qx, qy, qz, rx + b4 * a[1], ry + b4 * a[2], rz + b4 * a[3]


@inner
def _with_turned(g, b4, found):
    """What A gets back, with b4 T v' of what `_forward` found."""
    s, x, y, z, xx, yy, xy, yz, zx = g
    return s, x + b4 * found[9], y + b4 * found[10], z + b4 * found[11], xx, yy, xy, yz, zx


@inner
def multiply(zero, i, c, ps, pv, s, v, t, o):
    """Add the products of one atom and channel."""
    D, with_v, with_t = s.shape[1] // 2, v.shape[2] > 0, t.shape[2] > 0
    a, b = factor_at(s, v, t, i, c, 0, zero), factor_at(s, v, t, i, c, D, zero)
    found = _forward(a, b, zero, with_v, with_t)
    _add_products(ps, pv, i, c, D, found, _dot3(a, found), with_t, zero)
    if o.shape[2] > 0:
        multiply3(zero, i, c, D, ps, pv, v, t, o)


@inner
def multiply_tan(zero, i, c, tps, tpv, ts, tv, tt, to, s, v, t, o):
    """Add their tangents."""
    D, with_v, with_t = s.shape[1] // 2, v.shape[2] > 0, t.shape[2] > 0
    a, b = factor_at(s, v, t, i, c, 0, zero), factor_at(s, v, t, i, c, D, zero)
    ta, tb = factor_at(ts, tv, tt, i, c, 0, zero), factor_at(ts, tv, tt, i, c, D, zero)
    found = _forward(a, b, zero, with_v, with_t)
    moved = _sum12(_forward(ta, b, zero, with_v, with_t), _forward(a, tb, zero, with_v, with_t))
    _add_products(tps, tpv, i, c, D, moved, _dot3(ta, found) + _dot3(a, moved), with_t, zero)
    if o.shape[2] > 0:
        multiply3_tan(zero, i, c, D, tps, tpv, tv, tt, to, v, t, o)


@inner
def multiply_back(zero, i, c, ds, dv, dt, do, dps, dpv, s, v, t, o):
    """Add what A and B get back."""
    D, with_v, with_t = s.shape[1] // 2, v.shape[2] > 0, t.shape[2] > 0
    a, b = factor_at(s, v, t, i, c, 0, zero), factor_at(s, v, t, i, c, D, zero)
    d, b4 = _products_at(dps, dpv, i, c, D, with_t, zero)
    d, found = _grown(d, b4, a), _forward(a, b, zero, with_v, with_t)
    g = _with_turned(_to_a(b, d, zero, with_v, with_t), b4, found)
    add_factor(ds, dv, dt, i, c, 0, g, zero)
    add_factor(ds, dv, dt, i, c, D, _to_b(a, d, zero, with_v, with_t), zero)
    if o.shape[2] > 0:
        multiply3_back(zero, i, c, D, dv, dt, do, dps, dpv, v, t, o)


@inner
def multiply_back_tan(zero, i, c, tds, tdv, tdt, tdo, tdps, tdpv, ts, tv, tt, to, dps, dpv, s, v, t, o):
    """Add the tangents of that."""
    D, with_v, with_t = s.shape[1] // 2, v.shape[2] > 0, t.shape[2] > 0
    a, b = factor_at(s, v, t, i, c, 0, zero), factor_at(s, v, t, i, c, D, zero)
    ta, tb = factor_at(ts, tv, tt, i, c, 0, zero), factor_at(ts, tv, tt, i, c, D, zero)
    d, b4 = _products_at(dps, dpv, i, c, D, with_t, zero)
    td, tb4 = _products_at(tdps, tdpv, i, c, D, with_t, zero)
    d, td = _grown(d, b4, a), _grown(_grown(td, tb4, a), b4, ta)
    found = _forward(a, b, zero, with_v, with_t)
    moved = _sum12(_forward(ta, b, zero, with_v, with_t), _forward(a, tb, zero, with_v, with_t))
    g = _sum9(_to_a(b, td, zero, with_v, with_t), _to_a(tb, d, zero, with_v, with_t))
    add_factor(tds, tdv, tdt, i, c, 0, _with_turned(_with_turned(g, tb4, found), b4, moved), zero)
    g = _sum9(_to_b(a, td, zero, with_v, with_t), _to_b(ta, d, zero, with_v, with_t))
    add_factor(tds, tdv, tdt, i, c, D, g, zero)
    if o.shape[2] > 0:
        multiply3_back_tan(zero, i, c, D, tdv, tdt, tdo, tdps, tdpv, tv, tt, to, dps, dpv, v, t, o)


@inner
def _sum9(a, b):
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8 = b
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7, a8 + b8


@inner
def _sum12(a, b):
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11 = b
    a0, a1, a2, a3, a4, a5 = a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5
    return a0, a1, a2, a3, a4, a5, a6 + b6, a7 + b7, a8 + b8, a9 + b9, a10 + b10, a11 + b11


# ---- on a CPU: as many channels at a time as a vector holds, then those that are left


@kernel
def _fwd_cpu(ps, pv, s, v, t, o):
    n, D = s.shape[0], s.shape[1] // 2
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // s.itemsize, s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, D - D % L, L):
                multiply(splat(zero), i, c, ps, pv, s, v, t, o)
            for c in range(D - D % L, D):
                multiply(zero, i, c, ps, pv, s, v, t, o)


@kernel
def _fwd_tan_cpu(tps, tpv, ts, tv, tt, to, s, v, t, o):
    n, D = s.shape[0], s.shape[1] // 2
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // s.itemsize, s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, D - D % L, L):
                multiply_tan(splat(zero), i, c, tps, tpv, ts, tv, tt, to, s, v, t, o)
            for c in range(D - D % L, D):
                multiply_tan(zero, i, c, tps, tpv, ts, tv, tt, to, s, v, t, o)


@kernel
def _bwd_cpu(ds, dv, dt, do, dps, dpv, s, v, t, o):
    n, D = s.shape[0], s.shape[1] // 2
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // s.itemsize, s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, D - D % L, L):
                multiply_back(splat(zero), i, c, ds, dv, dt, do, dps, dpv, s, v, t, o)
            for c in range(D - D % L, D):
                multiply_back(zero, i, c, ds, dv, dt, do, dps, dpv, s, v, t, o)


@kernel
def _bwd_tan_cpu(tds, tdv, tdt, tdo, tdps, tdpv, ts, tv, tt, to, dps, dpv, s, v, t, o):
    n, D = s.shape[0], s.shape[1] // 2
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // s.itemsize, s.dtype.type(0)
        rest = tds, tdv, tdt, tdo, tdps, tdpv, ts, tv, tt, to, dps, dpv, s, v, t, o
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, D - D % L, L):
                multiply_back_tan(splat(zero), i, c, *rest)
            for c in range(D - D % L, D):
                multiply_back_tan(zero, i, c, *rest)


# ---- on a GPU: a thread for each channel


@gpu.kernel(lambda ps, pv, s, *_: s.size // 2)
def _fwd_cuda(ps, pv, s, v, t, o):
    """A thread takes one channel; without third moments 48 registers; 176 bytes, 63 operations."""
    n, D = s.shape[0], s.shape[1] // 2
    for k in range(cuda.grid(1), n * D, cuda.gridsize(1)):
        zero = s.dtype.type(0)
        multiply(zero, k // D, k % D, ps, pv, s, v, t, o)


@gpu.kernel(lambda tps, tpv, ts, *_: ts.size // 2)
def _fwd_tan_cuda(tps, tpv, ts, tv, tt, to, s, v, t, o):
    """A thread takes one channel; without third moments 68 registers; 248 bytes, 190 operations."""
    n, D = s.shape[0], s.shape[1] // 2
    for k in range(cuda.grid(1), n * D, cuda.gridsize(1)):
        zero = s.dtype.type(0)
        multiply_tan(zero, k // D, k % D, tps, tpv, ts, tv, tt, to, s, v, t, o)


@gpu.kernel(lambda ds, *_: ds.size // 2)
def _bwd_cuda(ds, dv, dt, do, dps, dpv, s, v, t, o):
    """A thread takes one channel; without third moments 64 registers; 268 bytes, 162 operations."""
    n, D = s.shape[0], s.shape[1] // 2
    for k in range(cuda.grid(1), n * D, cuda.gridsize(1)):
        zero = s.dtype.type(0)
        multiply_back(zero, k // D, k % D, ds, dv, dt, do, dps, dpv, s, v, t, o)


@gpu.kernel(lambda tds, *_: tds.size // 2)
def _bwd_tan_cuda(tds, tdv, tdt, tdo, tdps, tdpv, ts, tv, tt, to, dps, dpv, s, v, t, o):
    """A thread takes one channel; without third moments 110 registers; 392 bytes, 480 operations."""
    n, D = s.shape[0], s.shape[1] // 2
    for k in range(cuda.grid(1), n * D, cuda.gridsize(1)):
        zero = s.dtype.type(0)
        i, c = k // D, k % D
        multiply_back_tan(zero, i, c, tds, tdv, tdt, tdo, tdps, tdpv, ts, tv, tt, to, dps, dpv, s, v, t, o)


# ---- the table's signatures


def _fwd(run, ps, pv, s, v, t, o):
    ps[...] = 0
    pv[...] = 0
    run(ps, pv, s, v, t, o)


def _fwd_tan(run, tps, tpv, ts, tv, tt, to, s, v, t, o):
    tps[...] = 0
    tpv[...] = 0
    run(tps, tpv, or_zero(ts, s), or_zero(tv, v), or_zero(tt, t), or_zero(to, o), s, v, t, o)


def _bwd(run, ds, dv, dt, do, dps, dpv, s, v, t, o):
    run(or_zero(ds, s), or_zero(dv, v), or_zero(dt, t), or_zero(do, o), dps, dpv, s, v, t, o)


def _bwd_tan(run, tds, tdv, tdt, tdo, tdps, tdpv, ts, tv, tt, to, dps, dpv, s, v, t, o):
    found = or_zero(tds, s), or_zero(tdv, v), or_zero(tdt, t), or_zero(tdo, o)
    moved = or_zero(ts, s), or_zero(tv, v), or_zero(tt, t), or_zero(to, o)
    run(*found, tdps, tdpv, *moved, dps, dpv, s, v, t, o)


node_products_fwd_cpu, node_products_fwd_cuda = partial(_fwd, _fwd_cpu), partial(_fwd, _fwd_cuda)
node_products_bwd_cpu, node_products_bwd_cuda = partial(_bwd, _bwd_cpu), partial(_bwd, _bwd_cuda)
node_products_fwd_tan_cpu, node_products_fwd_tan_cuda = (
    partial(_fwd_tan, _fwd_tan_cpu),
    partial(_fwd_tan, _fwd_tan_cuda),
)
node_products_bwd_tan_cpu, node_products_bwd_tan_cuda = (
    partial(_bwd_tan, _bwd_tan_cpu),
    partial(_bwd_tan, _bwd_tan_cuda),
)
