"""Radial basis: Bessel functions with trained frequencies under a smooth envelope (Batzner et al., eq. 7).

    B_n(r) = a(r) S_n(r),   a = sqrt(2 / c) f(r / c) / r,   S_n = sin(k_n r),   k_n = w_n / c

with cutoff c (Å) and the envelope of DimeNet (eq. 8 there), f = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) -
p(p+1)/2 x^(p+2), whose value and first two derivatives vanish at the cutoff: f' = -p(p+1)(p+2)/2 x^(p-1)
(1-x)^2, f'' = -p(p+1)(p+2)/2 x^(p-2) (1-x) (p - 1 - (p+1) x). With primes for d/dr, C_n = cos(k_n r):

    dB_n/dr    = a' S + a k C                        dB_n/dw_n      = a (r/c) C
    d2B_n/dr2  = a'' S + 2 a' k C - a k^2 S          d2B_n/dr dw_n  = (a' r C + a C - a k r S) / c
                                                     d2B_n/dw_n^2   = -a (r/c)^2 S
    a' = sqrt(2/c) (f'/c - f/r) / r                  a'' = sqrt(2/c) (f''/c^2 - 2 f'/(c r) + 2 f/r^2) / r

bwd: dr = sum_n g_n dB_n/dr, dw_n = sum_e g_n dB_n/dw_n. fwd_tan: tB_n = dB_n/dr tr + dB_n/dw_n tw_n.
bwd_tan: the tangents of the two sums, with tg_n and the second derivatives along (tr, tw).

Shapes: r[E] (Å), frequencies w[B] (no unit), basis[E, B] (Å^-3/2). Zero for r >= c. Threads share chunks of
edges; sums over edges into a frequency are taken chunk by chunk, then over the chunks in order.
"""

import math
from functools import partial

import numpy as np
from numba import prange

from . import cuda as gpu
from .compile import inner, kernel
from .elementary import sincos

cuda = None  # see cuda.py
CHUNK = 128


@inner
def amplitude(r, cutoff, p):
    """a, a' and a'' at r."""
    x = r / cutoff
    if x >= 1:
        return 0.0, 0.0, 0.0
    top = x ** (p - 2)
    third = -0.5 * p * (p + 1) * (p + 2)
    f = 1 - top * x * x * (0.5 * (p + 1) * (p + 2) - p * (p + 2) * x + 0.5 * p * (p + 1) * x * x)
    f1 = third * top * x * (1 - x) ** 2 / cutoff
    f2 = third * top * (1 - x) * (p - 1 - (p + 1) * x) / cutoff**2
    norm = math.sqrt(2 / cutoff) / r
    return norm * f, norm * (f1 - f / r), norm * (f2 - 2 * f1 / r + 2 * f / r**2)


@inner
def _slopes(a, a1, r, w, cutoff):
    """dB/dr and dB/dw"""
    k = w / cutoff
    sin, cos = sincos(k * r)
    return a1 * sin + a * k * cos, a * r / cutoff * cos


@inner
def _slopes_tan(a, a1, a2, r, w, tr, tw, cutoff):
    """The tangents of dB/dr and dB/dw along (tr, tw)."""
    k, x = w / cutoff, r / cutoff
    sin, cos = sincos(k * r)
    mixed = a1 * x * cos + a * cos / cutoff - a * k * x * sin
    by_r = (a2 * sin + 2 * a1 * k * cos - a * k * k * sin) * tr + mixed * tw
    return by_r, mixed * tr - a * x * x * sin * tw


# ---- on a CPU


@kernel
def radial_basis_fwd_cpu(basis, r, frequencies, cutoff, envelope_p):
    for chunk in prange((r.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, _, _ = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                basis[e, n] = a * sincos(frequencies[n] / cutoff * r[e])[0]


@kernel
def _fwd_tan_cpu(tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p):
    for chunk in prange((r.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, a1, _ = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                by_r, by_w = _slopes(a, a1, r[e], frequencies[n], cutoff)
                tbasis[e, n] = by_r * tr[e] + by_w * tfrequencies[n]


@kernel
def _bwd_cpu(dr, sums, dbasis, r, frequencies, cutoff, envelope_p):
    for chunk in prange(sums.shape[0]):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, a1, _ = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                by_r, by_w = _slopes(a, a1, r[e], frequencies[n], cutoff)
                dr[e] += dbasis[e, n] * by_r
                sums[chunk, n] += dbasis[e, n] * by_w


@kernel
def _bwd_tan_cpu(tdr, sums, tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p):
    for chunk in prange(sums.shape[0]):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, a1, a2 = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                by_r, by_w = _slopes(a, a1, r[e], frequencies[n], cutoff)
                t_r, t_w = _slopes_tan(a, a1, a2, r[e], frequencies[n], tr[e], tfrequencies[n], cutoff)
                tdr[e] += tdbasis[e, n] * by_r + dbasis[e, n] * t_r
                sums[chunk, n] += tdbasis[e, n] * by_w + dbasis[e, n] * t_w


# ---- on a GPU


@gpu.kernel(lambda basis, *_: basis.size)
def radial_basis_fwd_cuda(basis, r, frequencies, cutoff, envelope_p):
    """A thread takes one function of one edge; 45 registers; 4 bytes, 17 operations in float64."""
    B = frequencies.size
    for k in range(cuda.grid(1), basis.size, cuda.gridsize(1)):
        e, n = k // B, k % B
        a, _, _ = amplitude(r[e], cutoff, envelope_p)
        basis[e, n] = a * sincos(frequencies[n] / cutoff * r[e])[0]


@gpu.kernel(lambda tbasis, *_: tbasis.size)
def _fwd_tan_cuda(tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p):
    """A thread takes one function of one edge; 56 registers; 4 bytes, 36 operations in float64."""
    B = frequencies.size
    for k in range(cuda.grid(1), tbasis.size, cuda.gridsize(1)):
        e, n = k // B, k % B
        a, a1, _ = amplitude(r[e], cutoff, envelope_p)
        by_r, by_w = _slopes(a, a1, r[e], frequencies[n], cutoff)
        tbasis[e, n] = by_r * tr[e] + by_w * tfrequencies[n]


@gpu.kernel(lambda dr, sums, *_: dr.size + sums.size)
def _bwd_cuda(dr, sums, dbasis, r, frequencies, cutoff, envelope_p):
    """A thread takes one edge (12 + 4 B bytes, 22 + 9 B operations), or one function of a chunk of edges (for
    each 8 bytes, 25 operations); 64 registers; in float64."""
    E, B = r.size, frequencies.size
    for k in range(cuda.grid(1), E + sums.size, cuda.gridsize(1)):
        if k < E:
            a, a1, _ = amplitude(r[k], cutoff, envelope_p)
            for n in range(B):
                dr[k] += dbasis[k, n] * _slopes(a, a1, r[k], frequencies[n], cutoff)[0]
        else:
            chunk, n = (k - E) // B, (k - E) % B
            for e in range(chunk * CHUNK, min(E, (chunk + 1) * CHUNK)):
                a, a1, _ = amplitude(r[e], cutoff, envelope_p)
                sums[chunk, n] += dbasis[e, n] * _slopes(a, a1, r[e], frequencies[n], cutoff)[1]


@gpu.kernel(lambda tdr, sums, *_: tdr.size + sums.size)
def _bwd_tan_cuda(tdr, sums, tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p):
    """A thread takes one edge (16 + 8 B bytes, 35 + 38 B operations), or one function of a chunk of edges
    (for each 16 bytes, 70 operations); 84 registers; in float64."""
    E, B = r.size, frequencies.size
    for k in range(cuda.grid(1), E + sums.size, cuda.gridsize(1)):
        if k < E:
            a, a1, a2 = amplitude(r[k], cutoff, envelope_p)
            for n in range(B):
                by_r, _ = _slopes(a, a1, r[k], frequencies[n], cutoff)
                t_r, _ = _slopes_tan(a, a1, a2, r[k], frequencies[n], tr[k], tfrequencies[n], cutoff)
                tdr[k] += tdbasis[k, n] * by_r + dbasis[k, n] * t_r
        else:
            chunk, n = (k - E) // B, (k - E) % B
            for e in range(chunk * CHUNK, min(E, (chunk + 1) * CHUNK)):
                a, a1, a2 = amplitude(r[e], cutoff, envelope_p)
                _, by_w = _slopes(a, a1, r[e], frequencies[n], cutoff)
                _, t_w = _slopes_tan(a, a1, a2, r[e], frequencies[n], tr[e], tfrequencies[n], cutoff)
                sums[chunk, n] += tdbasis[e, n] * by_w + dbasis[e, n] * t_w


# ---- the table's signatures


def _sums(r, frequencies):
    return np.zeros_like(frequencies, np.float64, shape=((r.size + CHUNK - 1) // CHUNK, frequencies.size))


def _zero_if_none(t, like):
    return np.zeros_like(like) if t is None else t


def _bwd(run, dr, dfrequencies, dbasis, r, frequencies, cutoff, envelope_p):
    sums = _sums(r, frequencies)
    run(_zero_if_none(dr, r), sums, dbasis, r, frequencies, cutoff, envelope_p)
    if dfrequencies is not None:
        dfrequencies += sums.sum(axis=0).astype(dfrequencies.dtype)


def _fwd_tan(run, tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p):
    tr, tfrequencies = _zero_if_none(tr, r), _zero_if_none(tfrequencies, frequencies)
    run(tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p)


def _bwd_tan(run, tdr, tdfrequencies, tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p):
    tr, tfrequencies = _zero_if_none(tr, r), _zero_if_none(tfrequencies, frequencies)
    sums = _sums(r, frequencies)
    values = tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p
    run(_zero_if_none(tdr, r), sums, *values)
    if tdfrequencies is not None:
        tdfrequencies += sums.sum(axis=0).astype(tdfrequencies.dtype)


radial_basis_bwd_cpu, radial_basis_bwd_cuda = partial(_bwd, _bwd_cpu), partial(_bwd, _bwd_cuda)
radial_basis_fwd_tan_cpu = partial(_fwd_tan, _fwd_tan_cpu)
radial_basis_fwd_tan_cuda = partial(_fwd_tan, _fwd_tan_cuda)
radial_basis_bwd_tan_cpu = partial(_bwd_tan, _bwd_tan_cpu)
radial_basis_bwd_tan_cuda = partial(_bwd_tan, _bwd_tan_cuda)
