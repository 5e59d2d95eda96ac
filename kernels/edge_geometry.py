"""Edge geometry: length and direction of an edge vector d = edge_vec (Å).

    r = |d| (Å),   unit = Y1 = sqrt(3) n,   n = d / r          component normalisation, order x, y, z, as in
    e3nn

Backward, with P = 1 - n n^T (the projector across the edge) and g = dunit:

    dd = dr n + (sqrt 3 / r) P g

Tangents, with a = n . td (change of length) and tn = P td / r (change of direction):

    tr = a,  tunit = sqrt(3) tn
    tdd = tdr n + dr tn + (sqrt 3 / r) [P tg - (a / r) P g - tn (n . g) - n (tn . g)]

Shapes: edge_vec[E, 3], r[E], unit[E, 3]. Domain: r > 0. Threads share chunks of edges.
"""

import math
from functools import partial

import numpy as np
from numba import prange

from . import cuda as gpu
from .compile import inner, kernel

cuda = None  # see cuda.py
CHUNK = 256
SQRT3 = np.sqrt(3.0)


# ---- one edge; x, y, z is edge_vec


@inner
def _direction(x, y, z):
    """r and n"""
    r = math.sqrt(x * x + y * y + z * z)
    return r, x / r, y / r, z / r


@inner
def _across(r, nx, ny, nz, gx, gy, gz):
    """(sqrt 3 / r) P g, which is also the tangent of Y1 along g"""
    f = type(r)(SQRT3) / r
    along = nx * gx + ny * gy + nz * gz
    return f * (gx - along * nx), f * (gy - along * ny), f * (gz - along * nz)


@inner
def _turned(r, nx, ny, nz, tx, ty, tz, gx, gy, gz):
    """(sqrt 3 / r) [-(a / r) P g - tn (n . g) - n (tn . g)] and tn, for tedge_vec = t"""
    f = type(r)(SQRT3) / r
    a = nx * tx + ny * ty + nz * tz
    b = a / r
    tx, ty, tz = (tx - a * nx) / r, (ty - a * ny) / r, (tz - a * nz) / r
    along = nx * gx + ny * gy + nz * gz
    turned = tx * gx + ty * gy + tz * gz
    x = f * (-b * (gx - along * nx) - tx * along - nx * turned)
    y = f * (-b * (gy - along * ny) - ty * along - ny * turned)
    z = f * (-b * (gz - along * nz) - tz * along - nz * turned)
    return x, y, z, tx, ty, tz


# ---- edge e of the arrays


@inner
def _edge(edge_vec, e):
    return _direction(edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2])


@inner
def _fwd_edge(e, r, unit, edge_vec):
    sqrt3 = edge_vec.dtype.type(SQRT3)
    length, x, y, z = _edge(edge_vec, e)
    r[e] = length
    unit[e, 0], unit[e, 1], unit[e, 2] = sqrt3 * x, sqrt3 * y, sqrt3 * z


@inner
def _bwd_edge(e, dedge_vec, dr, dunit, edge_vec):
    r, x, y, z = _edge(edge_vec, e)
    gx, gy, gz = _across(r, x, y, z, dunit[e, 0], dunit[e, 1], dunit[e, 2])
    dedge_vec[e, 0] += dr[e] * x + gx
    dedge_vec[e, 1] += dr[e] * y + gy
    dedge_vec[e, 2] += dr[e] * z + gz


@inner
def _fwd_tan_edge(e, tr, tunit, tedge_vec, edge_vec):
    r, x, y, z = _edge(edge_vec, e)
    tx, ty, tz = tedge_vec[e, 0], tedge_vec[e, 1], tedge_vec[e, 2]
    tr[e] = x * tx + y * ty + z * tz
    tunit[e, 0], tunit[e, 1], tunit[e, 2] = _across(r, x, y, z, tx, ty, tz)


@inner
def _bwd_tan_edge(e, tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec):
    r, x, y, z = _edge(edge_vec, e)
    hx, hy, hz = _across(r, x, y, z, tdunit[e, 0], tdunit[e, 1], tdunit[e, 2])
    qx, qy, qz, tx, ty, tz = _turned(
        *(r, x, y, z, tedge_vec[e, 0], tedge_vec[e, 1], tedge_vec[e, 2]),
        *(dunit[e, 0], dunit[e, 1], dunit[e, 2]),
    )
    tdedge_vec[e, 0] += tdr[e] * x + dr[e] * tx + hx + qx
    tdedge_vec[e, 1] += tdr[e] * y + dr[e] * ty + hy + qy
    tdedge_vec[e, 2] += tdr[e] * z + dr[e] * tz + hz + qz


# ---- on a CPU


@kernel
def edge_geometry_fwd_cpu(r, unit, edge_vec):
    for chunk in prange((r.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            _fwd_edge(e, r, unit, edge_vec)


@kernel
def _bwd_cpu(dedge_vec, dr, dunit, edge_vec):
    for chunk in prange((dr.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(dr.size, (chunk + 1) * CHUNK)):
            _bwd_edge(e, dedge_vec, dr, dunit, edge_vec)


@kernel
def _fwd_tan_cpu(tr, tunit, tedge_vec, edge_vec):
    for chunk in prange((tr.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(tr.size, (chunk + 1) * CHUNK)):
            _fwd_tan_edge(e, tr, tunit, tedge_vec, edge_vec)


@kernel
def _bwd_tan_cpu(tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec):
    for chunk in prange((tdr.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(tdr.size, (chunk + 1) * CHUNK)):
            _bwd_tan_edge(e, tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec)


# ---- on a GPU


@gpu.kernel(lambda *arrays: len(arrays[0]))
def edge_geometry_fwd_cuda(r, unit, edge_vec):
    """A thread takes one edge; 28 registers; 28 bytes, 12 operations."""
    for e in range(cuda.grid(1), r.size, cuda.gridsize(1)):
        _fwd_edge(e, r, unit, edge_vec)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _bwd_cuda(dedge_vec, dr, dunit, edge_vec):
    """A thread takes one edge; 30 registers; 52 bytes, 33 operations."""
    for e in range(cuda.grid(1), dr.size, cuda.gridsize(1)):
        _bwd_edge(e, dedge_vec, dr, dunit, edge_vec)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _fwd_tan_cuda(tr, tunit, tedge_vec, edge_vec):
    """A thread takes one edge; 31 registers; 40 bytes, 29 operations."""
    for e in range(cuda.grid(1), tr.size, cuda.gridsize(1)):
        _fwd_tan_edge(e, tr, tunit, tedge_vec, edge_vec)


@gpu.kernel(lambda *arrays: len(arrays[0]))
def _bwd_tan_cuda(tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec):
    """A thread takes one edge; 44 registers; 80 bytes, 92 operations."""
    for e in range(cuda.grid(1), tdr.size, cuda.gridsize(1)):
        _bwd_tan_edge(e, tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec)


# ---- the table's signatures


def _bwd(run, dedge_vec, dr, dunit, edge_vec):
    if dedge_vec is not None:
        run(dedge_vec, dr, dunit, edge_vec)


def _fwd_tan(run, tr, tunit, tedge_vec, edge_vec):
    if tedge_vec is None:
        tr[...] = 0
        tunit[...] = 0
    else:
        run(tr, tunit, tedge_vec, edge_vec)


def _bwd_tan(run, still, tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec):
    if tdedge_vec is None:
        return
    if tedge_vec is None:
        still(tdedge_vec, tdr, tdunit, edge_vec)
    else:
        run(tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec)


edge_geometry_bwd_cpu, edge_geometry_bwd_cuda = partial(_bwd, _bwd_cpu), partial(_bwd, _bwd_cuda)
edge_geometry_fwd_tan_cpu = partial(_fwd_tan, _fwd_tan_cpu)
edge_geometry_fwd_tan_cuda = partial(_fwd_tan, _fwd_tan_cuda)
edge_geometry_bwd_tan_cpu = partial(_bwd_tan, _bwd_tan_cpu, _bwd_cpu)
edge_geometry_bwd_tan_cuda = partial(_bwd_tan, _bwd_tan_cuda, _bwd_cuda)
