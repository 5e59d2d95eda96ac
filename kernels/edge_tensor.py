"""The filter of order 2 of every edge: M = Y Y^T - 1 for Y = unit, |Y|^2 = 3; symmetric and traceless.

    M = Y Y^T - 1              dY = (dM + dM^T) Y  =: B(dM, Y)
    tM = tY Y^T + Y tY^T       tdY = B(tdM, Y) + B(dM, tY)

tensor[E, 6] has xx, yy, zz, xy, yz, zx, and its cotangents are those of these six numbers.

Shapes: unit[E, 3], tensor[E, 6]; no units. Threads share chunks of edges.
"""

from functools import partial

from numba import prange

from . import cuda as gpu
from .compile import inner, kernel

cuda = None  # see cuda.py
CHUNK = 256


@inner
def tensor_of(x, y, z, one):
    """M, six numbers."""
    return x * x - one, y * y - one, z * z - one, x * y, y * z, z * x


@inner
def _fwd_edge(e, m, unit):
    m[e, 0], m[e, 1], m[e, 2], m[e, 3], m[e, 4], m[e, 5] = tensor_of(
        unit[e, 0], unit[e, 1], unit[e, 2], unit.dtype.type(1)
    )


@inner
def _fwd_tan_edge(e, tm, tunit, unit):
    x, y, z = unit[e, 0], unit[e, 1], unit[e, 2]
    tx, ty, tz = tunit[e, 0], tunit[e, 1], tunit[e, 2]
    m0, m1, m2 = x * tx, y * ty, z * tz
    tm[e, 0], tm[e, 1], tm[e, 2] = m0 + m0, m1 + m1, m2 + m2
    tm[e, 3], tm[e, 4], tm[e, 5] = x * ty + y * tx, y * tz + z * ty, z * tx + x * tz


@inner
def back(x, y, z, g):
    """B(g, Y) of six numbers g."""
    xx, yy, zz, xy, yz, zx = g
    gx = (xx + xx) * x + xy * y + zx * z
    gy = xy * x + (yy + yy) * y + yz * z
    gz = zx * x + yz * y + (zz + zz) * z
    return gx, gy, gz


@inner
def _bwd_edge(e, dunit, dm, unit):
    g = dm[e, 0], dm[e, 1], dm[e, 2], dm[e, 3], dm[e, 4], dm[e, 5]
    gx, gy, gz = back(unit[e, 0], unit[e, 1], unit[e, 2], g)
    dunit[e, 0] += gx
    dunit[e, 1] += gy
    dunit[e, 2] += gz


@kernel
def edge_tensor_fwd_cpu(m, unit):
    for chunk in prange((len(m) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(m), (chunk + 1) * CHUNK)):
            _fwd_edge(e, m, unit)


@kernel
def _fwd_tan_cpu(tm, tunit, unit):
    for chunk in prange((len(tm) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(tm), (chunk + 1) * CHUNK)):
            _fwd_tan_edge(e, tm, tunit, unit)


@kernel
def _bwd_cpu(dunit, dm, unit):
    for chunk in prange((len(dm) + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(len(dm), (chunk + 1) * CHUNK)):
            _bwd_edge(e, dunit, dm, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def edge_tensor_fwd_cuda(m, unit):
    """A thread takes one edge; 32 registers; 36 bytes, 9 operations."""
    for e in range(cuda.grid(1), m.shape[0], cuda.gridsize(1)):
        _fwd_edge(e, m, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _fwd_tan_cuda(tm, tunit, unit):
    """A thread takes one edge; 32 registers; 48 bytes, 15 operations."""
    for e in range(cuda.grid(1), tm.shape[0], cuda.gridsize(1)):
        _fwd_tan_edge(e, tm, tunit, unit)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _bwd_cuda(dunit, dm, unit):
    """A thread takes one edge; 31 registers; 60 bytes, 21 operations."""
    for e in range(cuda.grid(1), dm.shape[0], cuda.gridsize(1)):
        _bwd_edge(e, dunit, dm, unit)


# ---- the table's signatures: B is linear in each argument, so its tangent is itself, twice


def _fwd_tan(run, tm, tunit, unit):
    if tunit is None:
        tm[...] = 0
    else:
        run(tm, tunit, unit)


def _bwd(run, dunit, dm, unit):
    if dunit is not None:
        run(dunit, dm, unit)


def _bwd_tan(run, tdunit, tdm, tunit, dm, unit):
    if tdunit is not None:
        run(tdunit, tdm, unit)
        if tunit is not None:
            run(tdunit, dm, tunit)


edge_tensor_fwd_tan_cpu, edge_tensor_fwd_tan_cuda = (
    partial(_fwd_tan, _fwd_tan_cpu),
    partial(_fwd_tan, _fwd_tan_cuda),
)
edge_tensor_bwd_cpu, edge_tensor_bwd_cuda = partial(_bwd, _bwd_cpu), partial(_bwd, _bwd_cuda)
edge_tensor_bwd_tan_cpu, edge_tensor_bwd_tan_cuda = partial(_bwd_tan, _bwd_cpu), partial(_bwd_tan, _bwd_cuda)
