"""ZBL: the screened repulsion of two nuclei, which a network does not learn from structures near equilibrium.

    V(r) = k Z_i Z_j phi(r / a) f(r / c) / r,   k = e^2 / (4 pi eps0),   a = 0.8854 a0 / (Z_i^0.23 + Z_j^0.23)

with a sum phi of four exponentials, phi(0) = 1 (J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and
Range of Ions in Solids, 1985), and the envelope f of the radial basis, whose amplitude A = sqrt(2/c) f(r/c) /
r gives with primes for d/dr

    V = q phi A,   V' = q (phi' A + phi A'),   q = k Z_i Z_j sqrt(c / 2)

Value and first two derivatives vanish at c, where the term ends; it is smooth there as the network is at its
cutoff. Each edge gives half of the pair's energy to its receiver, so that with n = edge_vec / r

    E_i = sum over edges into i of V / 2,   dE/d edge_vec = V' n / 2,   F_i = sum over edges into i of V' n

The last because every edge has its reverse, with the opposite n: what it takes from its sender doubles the
sum. There are no weights.

Shapes: energies[n] (eV), forces[n, 3] and dedge_vec[E, 3] (eV/Å), edge_vec[E, 3] (Å), all float64; of each
two species charges[Z, Z] = k Z_i Z_j (eV Å), lengths[Z, Z] = a and ends[Z, Z] = c (Å). Domain: r > 0. Threads
share chunks of atoms; an atom is summed over its edges in order.
"""

import math

from numba import prange

from . import cuda as gpu
from .compile import inner, kernel
from .radial_basis import amplitude

cuda = None  # see cuda.py
CHUNK = 64

# Factors and exponents of phi, with the digits that LAMMPS takes: the factors of the book add up to 1.00007.
SCREENING = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))


@inner
def repulsion(r, charge, length, end, p):
    """V and V' at r < end."""
    a, a1, _ = amplitude(r, end, p)
    phi, phi1 = 0.0, 0.0
    for factor, exponent in SCREENING:
        term = factor * math.exp(-exponent / length * r)
        phi += term
        phi1 -= exponent / length * term
    q = charge * math.sqrt(0.5 * end)
    return q * phi * a, q * (phi1 * a + phi * a1)


@inner
def pair(square, charge, length, end, p):
    """V / 2 and V' / r at the squared distance; of a few per cent of the edges not zero."""
    if square >= end * end:
        return 0.0, 0.0
    r = math.sqrt(square)
    v, v1 = repulsion(r, charge, length, end, p)
    return 0.5 * v, v1 / r


@inner
def of_atom(i, dedge_vec, edge_vec, senders, receiver_ptr, species, charges, lengths, ends, p):
    """Energy of atom i and the force on it; writes dedge_vec of the edges into it."""
    energy, fx, fy, fz = 0.0, 0.0, 0.0, 0.0
    for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
        x, y, z = edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2]
        a, b = species[i], species[senders[e]]
        square = x * x + y * y + z * z
        half, slope = pair(square, charges[a, b], lengths[a, b], ends[a, b], p)
        energy += half
        fx, fy, fz = fx + slope * x, fy + slope * y, fz + slope * z
        dedge_vec[e, 0] = 0.5 * slope * x
        dedge_vec[e, 1] = 0.5 * slope * y
        dedge_vec[e, 2] = 0.5 * slope * z
    return energy, fx, fy, fz


@kernel
def zbl_cpu(
    energies, forces, dedge_vec, edge_vec, senders, receiver_ptr, species, charges, lengths, ends, envelope_p
):
    n = energies.size
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            energies[i], forces[i, 0], forces[i, 1], forces[i, 2] = of_atom(
                i, dedge_vec, edge_vec, senders, receiver_ptr, species, charges, lengths, ends, envelope_p
            )


@gpu.kernel(lambda energies, *_: energies.size)
def zbl_cuda(
    energies, forces, dedge_vec, edge_vec, senders, receiver_ptr, species, charges, lengths, ends, envelope_p
):
    """A thread takes one atom; 78 registers; for each edge 64 bytes, 17 operations, 60 more if V > 0."""
    for i in range(cuda.grid(1), energies.size, cuda.gridsize(1)):
        energies[i], forces[i, 0], forces[i, 1], forces[i, 2] = of_atom(
            i, dedge_vec, edge_vec, senders, receiver_ptr, species, charges, lengths, ends, envelope_p
        )
