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

import numpy as np
from numba import prange

from .compile import kernel

CHUNK = 256
SQRT3 = np.sqrt(3.0)


@kernel
def edge_geometry_fwd_cpu(r, unit, edge_vec):
    sqrt3 = edge_vec.dtype.type(SQRT3)
    for chunk in prange((r.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            x, y, z = edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2]
            length = np.sqrt(x * x + y * y + z * z)
            r[e] = length
            unit[e, 0] = sqrt3 * x / length
            unit[e, 1] = sqrt3 * y / length
            unit[e, 2] = sqrt3 * z / length


@kernel
def _bwd(dedge_vec, dr, dunit, edge_vec):
    sqrt3 = edge_vec.dtype.type(SQRT3)
    for chunk in prange((dr.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(dr.size, (chunk + 1) * CHUNK)):
            x, y, z = edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2]
            length = np.sqrt(x * x + y * y + z * z)
            x, y, z = x / length, y / length, z / length
            gx, gy, gz = dunit[e, 0], dunit[e, 1], dunit[e, 2]
            along = x * gx + y * gy + z * gz
            f = sqrt3 / length
            dedge_vec[e, 0] += dr[e] * x + f * (gx - along * x)
            dedge_vec[e, 1] += dr[e] * y + f * (gy - along * y)
            dedge_vec[e, 2] += dr[e] * z + f * (gz - along * z)


@kernel
def _fwd_tan(tr, tunit, tedge_vec, edge_vec):
    sqrt3 = edge_vec.dtype.type(SQRT3)
    for chunk in prange((tr.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(tr.size, (chunk + 1) * CHUNK)):
            x, y, z = edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2]
            length = np.sqrt(x * x + y * y + z * z)
            x, y, z = x / length, y / length, z / length
            tx, ty, tz = tedge_vec[e, 0], tedge_vec[e, 1], tedge_vec[e, 2]
            a = x * tx + y * ty + z * tz
            f = sqrt3 / length
            tr[e] = a
            tunit[e, 0] = f * (tx - a * x)
            tunit[e, 1] = f * (ty - a * y)
            tunit[e, 2] = f * (tz - a * z)


@kernel
def _bwd_tan(tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec):
    sqrt3 = edge_vec.dtype.type(SQRT3)
    for chunk in prange((tdr.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(tdr.size, (chunk + 1) * CHUNK)):
            x, y, z = edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2]
            length = np.sqrt(x * x + y * y + z * z)
            x, y, z = x / length, y / length, z / length
            tx, ty, tz = tedge_vec[e, 0], tedge_vec[e, 1], tedge_vec[e, 2]
            a = x * tx + y * ty + z * tz
            tx, ty, tz = (tx - a * x) / length, (ty - a * y) / length, (tz - a * z) / length  # tn
            gx, gy, gz = dunit[e, 0], dunit[e, 1], dunit[e, 2]
            hx, hy, hz = tdunit[e, 0], tdunit[e, 1], tdunit[e, 2]
            along = x * gx + y * gy + z * gz
            talong = x * hx + y * hy + z * hz
            turned = tx * gx + ty * gy + tz * gz
            f, b = sqrt3 / length, a / length
            tdedge_vec[e, 0] += (
                tdr[e] * x
                + dr[e] * tx
                + f * (hx - talong * x - b * (gx - along * x) - tx * along - x * turned)
            )
            tdedge_vec[e, 1] += (
                tdr[e] * y
                + dr[e] * ty
                + f * (hy - talong * y - b * (gy - along * y) - ty * along - y * turned)
            )
            tdedge_vec[e, 2] += (
                tdr[e] * z
                + dr[e] * tz
                + f * (hz - talong * z - b * (gz - along * z) - tz * along - z * turned)
            )


def edge_geometry_bwd_cpu(dedge_vec, dr, dunit, edge_vec):
    if dedge_vec is not None:
        _bwd(dedge_vec, dr, dunit, edge_vec)


def edge_geometry_fwd_tan_cpu(tr, tunit, tedge_vec, edge_vec):
    if tedge_vec is None:
        tr[...] = 0
        tunit[...] = 0
    else:
        _fwd_tan(tr, tunit, tedge_vec, edge_vec)


def edge_geometry_bwd_tan_cpu(tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec):
    if tdedge_vec is None:
        return
    if tedge_vec is None:
        _bwd(tdedge_vec, tdr, tdunit, edge_vec)
    else:
        _bwd_tan(tdedge_vec, tdr, tdunit, tedge_vec, dr, dunit, edge_vec)
