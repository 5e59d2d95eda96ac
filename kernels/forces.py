"""Forces and virials from the cotangents of the edge vectors, and sums over the atoms of a structure.

edge_vec = r_sender - r_receiver, so with d_e = dE / d edge_vec_e (eV/Å)

    F_i = -dE/dr_i = sum over edges into i of d_e - sum over edges out of i of d_e          (eV/Å)

and the virial of atom i is W_i = sum over edges into i of the symmetric part of edge_vec_e d_e^T (eV).

Shapes: forces[n, 3], dedge_vec[E, 3], edge_vec[E, 3], virials[n, 6] in the order xx yy zz yz xz xy. Sums are
taken in the precision of the result, each by one thread in the order of the edges.
"""

from numba import prange

from . import cuda as gpu
from .compile import inner, kernel, routine
from .cuda import LANES, warp_sum

cuda = None  # see cuda.py
CHUNK = 64


@inner
def force(total, dedge_vec, receiver_ptr, sender_perm, sender_ptr, i, d):
    """Component d of the force on atom i, added to `total`."""
    for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
        total += dedge_vec[e, d]
    for k in range(sender_ptr[i], sender_ptr[i + 1]):
        total -= dedge_vec[sender_perm[k], d]
    return total


@routine
def sum_forces(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr, first, last):
    """Forces on atoms first : last."""
    zero = forces.dtype.type(0)
    for i in range(first, last):
        for d in range(3):
            forces[i, d] = force(zero, dedge_vec, receiver_ptr, sender_perm, sender_ptr, i, d)


@kernel
def forces_cpu(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr):
    n = forces.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        first, last = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
        sum_forces(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr, first, last)


@gpu.kernel(lambda forces, *_: forces.size)
def forces_cuda(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr):
    """A thread takes one component of one atom; 38 registers; for each neighbour 16 bytes, 2 operations."""
    zero = forces.dtype.type(0)
    for k in range(cuda.grid(1), forces.size, cuda.gridsize(1)):
        i, d = k // 3, k % 3
        forces[i, d] = force(zero, dedge_vec, receiver_ptr, sender_perm, sender_ptr, i, d)


@gpu.kernel(lambda virials, *_: len(virials))
def virials_cuda(virials, edge_vec, dedge_vec, receiver_ptr):
    """A thread takes one atom; 56 registers; for each edge 48 bytes, 21 operations."""
    for i in range(cuda.grid(1), virials.shape[0], cuda.gridsize(1)):
        xx = yy = zz = yz = xz = xy = virials.dtype.type(0)
        for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
            x, y, z = edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2]
            dx, dy, dz = dedge_vec[e, 0], dedge_vec[e, 1], dedge_vec[e, 2]
            xx, yy, zz = xx + x * dx, yy + y * dy, zz + z * dz
            yz, xz, xy = yz + (y * dz + z * dy) / 2, xz + (x * dz + z * dx) / 2, xy + (x * dy + y * dx) / 2
        virials[i, 0], virials[i, 1], virials[i, 2] = xx, yy, zz
        virials[i, 3], virials[i, 4], virials[i, 5] = yz, xz, xy


@gpu.kernel(lambda sums, *_: LANES * sums.size)
def frame_sums_cuda(sums, values, frame):
    """sums[f, k] = sum of values[i, k] over the atoms i of frame f, wherever they are.

    A warp takes one sum; 80 registers; for each atom of any frame 8 bytes, of this one 16, one operation.
    """
    K = sums.shape[1]
    lane = cuda.threadIdx.x % LANES
    for k in range(cuda.grid(1) // LANES, sums.size, cuda.gridsize(1) // LANES):
        total = sums.dtype.type(0)
        for i in range(lane, values.shape[0], LANES):
            if frame[i] == k // K:
                total += values[i, k % K]
        total = warp_sum(total)
        if lane == 0:
            sums[k // K, k % K] = total
