"""Third moments: their seven numbers, and their products on an atom, one channel of them: of `node_products`.

    p = sqrt(6/35) O : T'        ps gets v . p / sqrt 3 and O : O' sqrt(4/175), pv gets p

T' has five numbers, O seven, of the symmetric traceless tensors that they stand for (`edge_tensor`,
`edge_tensor3`). With b5, b6 and P the cotangents of the three and R = sqrt(6/35) (P + b5 v / sqrt 3),

    dv = b5 p / sqrt 3    dO = (R T')^ + b6 sqrt(4/175) O'^    dO' = b6 sqrt(4/175) O^    dT' = (R . O)^

where X^ has for each of the seven or five numbers the sum of X over the places where it stands, less that
where it is part of one that follows: (X^)_xxx = X_xxx - (X_xzz + X_zxz + X_zzx), (X^)_xx = X_xx - X_zz. So

    O'^ = (xxx + 3 a, 3 xyy + 3 a, yyy + 3 b, 3 xxy + 3 b, 3 xxz + c, 3 yyz + c, 6 xyz),   O : O' = O . (O'^),
    a = xxx + xyy = -xzz,  b = yyy + xxy = -yzz,  c = xxz + yyz = -zzz

The products are linear in each factor, so that tangents are sums of the same functions; R moves by
sqrt(6/35) (tP + (tb5 v + b5 tv) / sqrt 3). Variances: |O|^2 = 35/2 and |T|^2 = 5 of seven and five components
of unit variance, so that |O : T'|^2 is 35/2, a third of it a component, and O : O' has 7 (5/2)^2. No units.
"""

import numpy as np

from .compile import inner
from .products import R3
from .simd import fill, read, write

R635 = np.sqrt(6.0 / 35.0)
R4175 = np.sqrt(4.0 / 175.0)


# ---- seven numbers, also of an edge


@inner
def scaled7(a, o):
    """a times seven numbers: with a = w7 s what the receiver is sent, or what O gets back."""
    return a * o[0], a * o[1], a * o[2], a * o[3], a * o[4], a * o[5], a * o[6]


@inner
def dot7(o, a):
    """O . A7, which times s goes back to the weight, times the weight to the sender."""
    return o[0] * a[0] + o[1] * a[1] + o[2] * a[2] + o[3] * a[3] + o[4] * a[4] + o[5] * a[5] + o[6] * a[6]


@inner
def added7(a, b):
    """a + b, of seven numbers each."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6]


@inner
def thirds_at(mo, i, c, zero):
    """Seven numbers of mo[n, 7, C], or of its cotangent."""
    return (
        *(read(mo, (i, 0, c), zero), read(mo, (i, 1, c), zero), read(mo, (i, 2, c), zero)),
        *(read(mo, (i, 3, c), zero), read(mo, (i, 4, c), zero), read(mo, (i, 5, c), zero)),
        read(mo, (i, 6, c), zero),
    )


@inner
def put_thirds(mo, i, c, found):
    """Seven numbers into mo[n, 7, C]."""
    write(mo, (i, 0, c), found[0])
    write(mo, (i, 1, c), found[1])
    write(mo, (i, 2, c), found[2])
    write(mo, (i, 3, c), found[3])
    write(mo, (i, 4, c), found[4])
    write(mo, (i, 5, c), found[5])
    write(mo, (i, 6, c), found[6])


# ---- the products of one channel


@inner
def _bend(o, t):
    """O : T', three numbers."""
    xxx, xyy, yyy, xxy, xxz, yyz, xyz = o
    xx, yy, xy, yz, zx = t
    trace, a, b = xx + yy, xxx + xyy, yyy + xxy  # -zz of T', -xzz and -yzz of O
    x, y, z = xxy * xy + xyz * yz + xxz * zx, xyy * xy + yyz * yz + xyz * zx, xyz * xy - b * yz - a * zx
    x, y = x + x + xxx * xx + xyy * yy + a * trace, y + y + xxy * xx + yyy * yy + b * trace
    return x, y, z + z + xxz * xx + yyz * yy + (xxz + yyz) * trace


@inner
def _to_third(t, r):
    """What the seven numbers get back, of R."""
    xx, yy, xy, yz, zx = t
    x, y, z = r
    trace = xx + yy
    p, q = xx + trace, yy + trace
    zzx, zzy, three = z * zx, z * yz, x * yz + y * zx + z * xy
    zzx, zzy, yxy, xxy, xzx, yyz = zzx + zzx, zzy + zzy, y * xy, x * xy, x * zx, y * yz
    return (
        *(x * p - zzx, x * q + yxy + yxy - zzx, y * q - zzy, xxy + xxy + y * p - zzy),
        *(xzx + xzx + z * p, yyz + yyz + z * q, three + three),
    )


@inner
def _to_second(o, r):
    """What the five numbers get back."""
    xxx, xyy, yyy, xxy, xxz, yyz, xyz = o
    x, y, z = r
    a, b, c = xxx + xyy, yyy + xxy, xxz + yyz
    xy, yz, zx = x * xxy + y * xyy + z * xyz, x * xyz + y * yyz - z * b, x * xxz + y * xyz - z * a
    both = x * a + y * b + z * c
    return both + x * xxx + y * xxy + z * xxz, both + x * xyy + y * yyy + z * yyz, xy + xy, yz + yz, zx + zx


@inner
def _lowered(o, three):
    """O^, seven numbers: O : O' = O . (O'^)."""
    xxx, xyy, yyy, xxy, xxz, yyz, xyz = o
    a, b, c = three * (xxx + xyy), three * (yyy + xxy), xxz + yyz
    return (
        *(xxx + a, three * xyy + a, yyy + b, three * xxy + b),
        *(three * xxz + c, three * yyz + c, (three + three) * xyz),
    )


# ---- channel c of an atom's rows; B's columns begin at D


@inner
def _second_at(t, i, k, zero):
    return (
        *(read(t, (i, 0, k), zero), read(t, (i, 1, k), zero), read(t, (i, 2, k), zero)),
        *(read(t, (i, 3, k), zero), read(t, (i, 4, k), zero)),
    )


@inner
def _vector_at(v, i, k, zero):
    return read(v, (i, 0, k), zero), read(v, (i, 1, k), zero), read(v, (i, 2, k), zero)


@inner
def _scaled(a, x):
    return a * x[0], a * x[1], a * x[2]


@inner
def _sum(x, y):
    return x[0] + y[0], x[1] + y[1], x[2] + y[2]


@inner
def _dot(x, y):
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


@inner
def _add(a, i, row, k, x, zero):
    write(a, (i, row, k), read(a, (i, row, k), zero) + x)


@inner
def _add_vector(a, i, k, x, zero):
    _add(a, i, 0, k, x[0], zero)
    _add(a, i, 1, k, x[1], zero)
    _add(a, i, 2, k, x[2], zero)


@inner
def _add_scalar(ps, i, k, x, zero):
    write(ps, (i, k), read(ps, (i, k), zero) + x)


@inner
def _add_third(do, i, k, third, zero):
    _add_vector(do, i, k, third, zero)
    _add(do, i, 3, k, third[3], zero)
    _add(do, i, 4, k, third[4], zero)
    _add(do, i, 5, k, third[5], zero)
    _add(do, i, 6, k, third[6], zero)


@inner
def _add_second(dt, i, k, second, zero):
    _add_vector(dt, i, k, second, zero)
    _add(dt, i, 3, k, second[3], zero)
    _add(dt, i, 4, k, second[4], zero)


@inner
def multiply3(zero, i, c, D, ps, pv, v, t, o):
    """Add the products of one atom and channel."""
    k, k3 = fill(ps.dtype.type(R635), zero), fill(ps.dtype.type(R3), zero)
    p = _scaled(k, _bend(thirds_at(o, i, c, zero), _second_at(t, i, D + c, zero)))
    _add_scalar(ps, i, 4 * D + c, k3 * _dot(_vector_at(v, i, c, zero), p), zero)
    _add_vector(pv, i, 3 * D + c, p, zero)
    k, three = fill(ps.dtype.type(R4175), zero), fill(ps.dtype.type(3), zero)
    square = dot7(thirds_at(o, i, c, zero), _lowered(thirds_at(o, i, D + c, zero), three))
    _add_scalar(ps, i, 5 * D + c, k * square, zero)


@inner
def multiply3_tan(zero, i, c, D, tps, tpv, tv, tt, to, v, t, o):
    """Add their tangents."""
    k, k3 = fill(tps.dtype.type(R635), zero), fill(tps.dtype.type(R3), zero)
    third, second = thirds_at(o, i, c, zero), _second_at(t, i, D + c, zero)
    p, tp = _scaled(k, _bend(third, second)), _moved(k, third, second, tt, to, i, c, D, zero)
    moved = _dot(_vector_at(tv, i, c, zero), p) + _dot(_vector_at(v, i, c, zero), tp)
    _add_scalar(tps, i, 4 * D + c, k3 * moved, zero)
    _add_vector(tpv, i, 3 * D + c, tp, zero)
    k, three = fill(tps.dtype.type(R4175), zero), fill(tps.dtype.type(3), zero)
    other, tother = thirds_at(o, i, D + c, zero), thirds_at(to, i, D + c, zero)
    moved = dot7(thirds_at(to, i, c, zero), _lowered(other, three)) + dot7(third, _lowered(tother, three))
    _add_scalar(tps, i, 5 * D + c, k * moved, zero)


@inner
def _moved(k, third, second, tt, to, i, c, D, zero):
    """tp."""
    by_third = _bend(thirds_at(to, i, c, zero), second)
    return _scaled(k, _sum(by_third, _bend(third, _second_at(tt, i, D + c, zero))))


@inner
def _cotangents_at(dps, dpv, i, c, D, k3, zero):
    """b5 / sqrt 3, and P."""
    return k3 * read(dps, (i, 4 * D + c), zero), _vector_at(dpv, i, 3 * D + c, zero)


@inner
def multiply3_back(zero, i, c, D, dv, dt, do, dps, dpv, v, t, o):
    """Add what the factors get back."""
    k, k3 = fill(dps.dtype.type(R635), zero), fill(dps.dtype.type(R3), zero)
    b, P = _cotangents_at(dps, dpv, i, c, D, k3, zero)
    third, second = thirds_at(o, i, c, zero), _second_at(t, i, D + c, zero)
    r = _scaled(k, _sum(P, _scaled(b, _vector_at(v, i, c, zero))))
    _add_vector(dv, i, c, _scaled(k * b, _bend(third, second)), zero)
    _add_third(do, i, c, _to_third(second, r), zero)
    _add_second(dt, i, D + c, _to_second(third, r), zero)
    _add_squares(do, o, dps, i, c, D, zero)


@inner
def _add_squares(do, o, dps, i, c, D, zero):
    """Add b6 O'^ and b6 O^."""
    three = fill(dps.dtype.type(3), zero)
    b6 = fill(dps.dtype.type(R4175), zero) * read(dps, (i, 5 * D + c), zero)
    _add_third(do, i, c, scaled7(b6, _lowered(thirds_at(o, i, D + c, zero), three)), zero)
    _add_third(do, i, D + c, scaled7(b6, _lowered(thirds_at(o, i, c, zero), three)), zero)


@inner
def multiply3_back_tan(zero, i, c, D, tdv, tdt, tdo, tdps, tdpv, tv, tt, to, dps, dpv, v, t, o):
    """Add the tangents of that."""
    k, k3 = fill(dps.dtype.type(R635), zero), fill(dps.dtype.type(R3), zero)
    b, P = _cotangents_at(dps, dpv, i, c, D, k3, zero)
    tb, tP = _cotangents_at(tdps, tdpv, i, c, D, k3, zero)
    v_c, tv_c = _vector_at(v, i, c, zero), _vector_at(tv, i, c, zero)
    third, second = thirds_at(o, i, c, zero), _second_at(t, i, D + c, zero)
    tthird, tsecond = thirds_at(to, i, c, zero), _second_at(tt, i, D + c, zero)
    r = _scaled(k, _sum(P, _scaled(b, v_c)))
    tr = _scaled(k, _sum(tP, _sum(_scaled(tb, v_c), _scaled(b, tv_c))))
    tp = _moved(k, third, second, tt, to, i, c, D, zero)
    _add_vector(tdv, i, c, _sum(_scaled(k * tb, _bend(third, second)), _scaled(b, tp)), zero)
    _add_third(tdo, i, c, added7(_to_third(tsecond, r), _to_third(second, tr)), zero)
    _add_second(tdt, i, D + c, _sum5(_to_second(tthird, r), _to_second(third, tr)), zero)
    _add_squares(tdo, o, tdps, i, c, D, zero)
    _add_squares(tdo, to, dps, i, c, D, zero)


@inner
def _sum5(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4]
