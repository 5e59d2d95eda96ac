"""Forces from the cotangents of the edge vectors.

edge_vec = r_sender - r_receiver, so with d_e = dE / d edge_vec_e (eV/Å)

    F_i = -dE/dr_i = sum over edges into i of d_e - sum over edges out of i of d_e          (eV/Å)

Shapes: forces[n, 3], dedge_vec[E, 3]. Sums are taken in the precision of `forces`, each by one thread in the
order of the edges.
"""

from numba import prange

from .compile import kernel, routine

CHUNK = 64


@routine
def sum_forces(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr, first, last):
    """Forces on atoms first : last."""
    for i in range(first, last):
        for d in range(3):
            total = forces.dtype.type(0)
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                total += dedge_vec[e, d]
            for k in range(sender_ptr[i], sender_ptr[i + 1]):
                total -= dedge_vec[sender_perm[k], d]
            forces[i, d] = total


@kernel
def forces_cpu(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr):
    n = forces.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        first, last = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
        sum_forces(forces, dedge_vec, receiver_ptr, sender_perm, sender_ptr, first, last)
