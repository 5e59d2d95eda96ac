"""The filter of order 3 of every edge: O = Y Y Y - 3/5 (1 Y + Y 1 + 1 Y) for Y = unit, |Y|^2 = 3.

O is symmetric and traceless, and odd: the reverse edge has -O. third[E, 7] has seven of its numbers,

    xxx = x^3 - 9/5 x,  xyy = x y^2 - 3/5 x,  yyy = y^3 - 9/5 y,  xxy = x^2 y - 3/5 y,
    xxz = x^2 z - 3/5 z,  yyz = y^2 z - 3/5 z,  xyz = x y z;

the three others are xzz = -xxx - xyy, yzz = -yyy - xxy, zzz = -xxz - yyz. Cotangents are those of the seven.
With J = dO/dY of these polynomials, and B(dO, Y) = J^T dO,

    dY = B(dO, Y)        tO = J tY        tdY = B(tdO, Y) + B'(dO, Y; tY)

where B' is the derivative of B along tY. What points along Y does not matter, as |Y| is constant.

Shapes: unit[E, 3], third[E, 7]; no units. Threads share chunks of edges.
"""

from functools import partial

from numba import prange

from . import cuda as gpu
from .compile import inner, kernel

cuda = None  # see cuda.py
CHUNK = 256
A = 3.0 / 5.0


@inner
def third_of(x, y, z, a):
    """O, seven numbers; a = 3/5 in the precision of x, y and z."""
    xx, yy = x * x - a, y * y - a
    return x * (xx - a - a), x * yy, y * (yy - a - a), xx * y, xx * z, yy * z, x * y * z


@inner
def third_tan(x, y, z, tx, ty, tz, a):
    """tO = J tY."""
    xx, yy, along_x, along_y = x * x - a, y * y - a, (x + x) * tx, (y + y) * ty
    return (
        *((xx + xx + xx) * tx, yy * tx + along_y * x, (yy + yy + yy) * ty, xx * ty + along_x * y),
        *(xx * tz + along_x * z, yy * tz + along_y * z, y * z * tx + x * z * ty + x * y * tz),
    )


@inner
def back3(x, y, z, g, a):
    """B(g, Y) of seven numbers g."""
    xxx, xyy, yyy, xxy, xxz, yyz, xyz = g
    xx, yy = x * x - a, y * y - a
    gx = (xx + xx + xx) * xxx + yy * xyy + (x + x) * (y * xxy + z * xxz) + y * z * xyz
    gy = (yy + yy + yy) * yyy + xx * xxy + (y + y) * (x * xyy + z * yyz) + x * z * xyz
    return gx, gy, xx * xxz + yy * yyz + x * y * xyz


@inner
def _back_along(x, y, z, tx, ty, tz, g):
    """B'(g, Y; tY)."""
    xxx, xyy, yyy, xxy, xxz, yyz, xyz = g
    along_x, along_y = (x + x) * tx, (y + y) * ty
    across_x, across_y = y * xxy + z * xxz, x * xyy + z * yyz
    gx = (
        (along_x + along_x + along_x) * xxx
        + along_y * xyy
        + (tx + tx) * across_x
        + (x + x) * (ty * xxy + tz * xxz)
    )
    gy = (
        (along_y + along_y + along_y) * yyy
        + along_x * xxy
        + (ty + ty) * across_y
        + (y + y) * (tx * xyy + tz * yyz)
    )
    gx, gy = gx + (y * tz + z * ty) * xyz, gy + (x * tz + z * tx) * xyz
    return gx, gy, along_x * xxz + along_y * yyz + (x * ty + y * tx) * xyz


# ---- one edge


@inner
def _put(e, third, found):
    third[e, 0], third[e, 1], third[e, 2], third[e, 3], third[e, 4], third[e, 5], third[e, 6] = found


@inner
def _seven(a, e):
    return a[e, 0], a[e, 1], a[e, 2], a[e, 3], a[e, 4], a[e, 5], a[e, 6]


@inner
def _add(e, dunit, found):
    dunit[e, 0] += found[0]
    dunit[e, 1] += found[1]
    dunit[e, 2] += found[2]


@inner
def _fwd_edge(e, third, unit):
    _put(e, third, third_of(unit[e, 0], unit[e, 1], unit[e, 2], unit.dtype.type(A)))


@inner
def _fwd_tan_edge(e, tthird, t, unit):
    moved = third_tan(unit[e, 0], unit[e, 1], unit[e, 2], t[e, 0], t[e, 1], t[e, 2], unit.dtype.type(A))
    _put(e, tthird, moved)


@inner
def _bwd_edge(e, dunit, dthird, unit):
    _add(e, dunit, back3(unit[e, 0], unit[e, 1], unit[e, 2], _seven(dthird, e), unit.dtype.type(A)))


@inner
def _along_edge(e, tdunit, t, dthird, unit):
    y, g = (unit[e, 0], unit[e, 1], unit[e, 2]), _seven(dthird, e)
    _add(e, tdunit, _back_along(y[0], y[1], y[2], t[e, 0], t[e, 1], t[e, 2], g))


# ---- all edges


@kernel
def edge_tensor3_fwd_cpu(third, unit):
    for chunk in prange((len(third) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(third), (chunk + 1) * CHUNK)):
            _fwd_edge(e, third, unit)


@kernel
def _fwd_tan_cpu(tthird, tunit, unit):
    for chunk in prange((len(tthird) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(tthird), (chunk + 1) * CHUNK)):
            _fwd_tan_edge(e, tthird, tunit, unit)


@kernel
def _bwd_cpu(dunit, dthird, unit):
    for chunk in prange((len(dthird) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(dthird), (chunk + 1) * CHUNK)):
            _bwd_edge(e, dunit, dthird, unit)


@kernel
def _along_cpu(tdunit, tunit, dthird, unit):
    for chunk in prange((len(dthird) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(dthird), (chunk + 1) * CHUNK)):
            _along_edge(e, tdunit, tunit, dthird, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def edge_tensor3_fwd_cuda(third, unit):
    """A thread takes one edge; 40 bytes, 14 operations."""
    for e in range(cuda.grid(1), third.shape[0], cuda.gridsize(1)):
        _fwd_edge(e, third, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _fwd_tan_cuda(tthird, tunit, unit):
    """A thread takes one edge; 52 bytes, 37 operations."""
    for e in range(cuda.grid(1), tthird.shape[0], cuda.gridsize(1)):
        _fwd_tan_edge(e, tthird, tunit, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _bwd_cuda(dunit, dthird, unit):
    """A thread takes one edge; 64 bytes, 34 operations."""
    for e in range(cuda.grid(1), dthird.shape[0], cuda.gridsize(1)):
        _bwd_edge(e, dunit, dthird, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _along_cuda(tdunit, tunit, dthird, unit):
    """A thread takes one edge; 76 bytes, 52 operations."""
    for e in range(cuda.grid(1), dthird.shape[0], cuda.gridsize(1)):
        _along_edge(e, tdunit, tunit, dthird, unit)


# ---- the table's signatures


def _fwd_tan(run, tthird, tunit, unit):
    if tunit is None:
        tthird[...] = 0
    else:
        run(tthird, tunit, unit)


def _bwd(run, dunit, dthird, unit):
    if dunit is not None:
        run(dunit, dthird, unit)


def _bwd_tan(bwd, along, tdunit, tdthird, tunit, dthird, unit):
    if tdunit is not None:
        bwd(tdunit, tdthird, unit)
        if tunit is not None:
            along(tdunit, tunit, dthird, unit)


edge_tensor3_fwd_tan_cpu, edge_tensor3_fwd_tan_cuda = (
    partial(_fwd_tan, _fwd_tan_cpu),
    partial(_fwd_tan, _fwd_tan_cuda),
)
edge_tensor3_bwd_cpu, edge_tensor3_bwd_cuda = partial(_bwd, _bwd_cpu), partial(_bwd, _bwd_cuda)
edge_tensor3_bwd_tan_cpu, edge_tensor3_bwd_tan_cuda = (
    partial(_bwd_tan, _bwd_cpu, _along_cpu),
    partial(_bwd_tan, _bwd_cuda, _along_cuda),
)
