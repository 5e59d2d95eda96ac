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

import numpy as np
from numba import prange

from .compile import inner, kernel
from .elementary import sincos

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
    norm = np.sqrt(2 / cutoff) / r
    return norm * f, norm * (f1 - f / r), norm * (f2 - 2 * f1 / r + 2 * f / r**2)


@kernel
def radial_basis_fwd_cpu(basis, r, frequencies, cutoff, envelope_p):
    for chunk in prange((r.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, _, _ = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                basis[e, n] = a * sincos(frequencies[n] / cutoff * r[e])[0]


@kernel
def _fwd_tan(tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p):
    for chunk in prange((r.size + CHUNK - 1) // CHUNK):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, a1, _ = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                k = frequencies[n] / cutoff
                sin, cos = sincos(k * r[e])
                tbasis[e, n] = (a1 * sin + a * k * cos) * tr[e] + a * r[e] / cutoff * cos * tfrequencies[n]


@kernel
def _bwd(dr, partial, dbasis, r, frequencies, cutoff, envelope_p):
    for chunk in prange(partial.shape[0]):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, a1, _ = amplitude(r[e], cutoff, envelope_p)
            for n in range(frequencies.size):
                k = frequencies[n] / cutoff
                sin, cos = sincos(k * r[e])
                dr[e] += dbasis[e, n] * (a1 * sin + a * k * cos)
                partial[chunk, n] += dbasis[e, n] * a * r[e] / cutoff * cos


@kernel
def _bwd_tan(tdr, partial, tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p):
    for chunk in prange(partial.shape[0]):
        for e in range(chunk * CHUNK, min(r.size, (chunk + 1) * CHUNK)):
            a, a1, a2 = amplitude(r[e], cutoff, envelope_p)
            x = r[e] / cutoff
            for n in range(frequencies.size):
                k, tk = frequencies[n] / cutoff, tfrequencies[n]
                sin, cos = sincos(k * r[e])
                mixed = a1 * x * cos + a * cos / cutoff - a * k * x * sin
                by_r = (a2 * sin + 2 * a1 * k * cos - a * k * k * sin) * tr[e] + mixed * tk
                by_w = mixed * tr[e] - a * x * x * sin * tk
                tdr[e] += tdbasis[e, n] * (a1 * sin + a * k * cos) + dbasis[e, n] * by_r
                partial[chunk, n] += tdbasis[e, n] * a * x * cos + dbasis[e, n] * by_w


def _partial(r, frequencies):
    return np.zeros(((r.size + CHUNK - 1) // CHUNK, frequencies.size))


def _zero_if_none(t, like):
    return np.zeros_like(like) if t is None else t


def radial_basis_bwd_cpu(dr, dfrequencies, dbasis, r, frequencies, cutoff, envelope_p):
    partial = _partial(r, frequencies)
    _bwd(_zero_if_none(dr, r), partial, dbasis, r, frequencies, cutoff, envelope_p)
    if dfrequencies is not None:
        dfrequencies += partial.sum(axis=0)


def radial_basis_fwd_tan_cpu(tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p):
    tr, tfrequencies = _zero_if_none(tr, r), _zero_if_none(tfrequencies, frequencies)
    _fwd_tan(tbasis, tr, tfrequencies, r, frequencies, cutoff, envelope_p)


def radial_basis_bwd_tan_cpu(
    tdr, tdfrequencies, tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p
):
    tr, tfrequencies = _zero_if_none(tr, r), _zero_if_none(tfrequencies, frequencies)
    partial = _partial(r, frequencies)
    _bwd_tan(
        _zero_if_none(tdr, r), partial, tdbasis, tr, tfrequencies, dbasis, r, frequencies, cutoff, envelope_p
    )
    if tdfrequencies is not None:
        tdfrequencies += partial.sum(axis=0)
