"""One step of SOAP for every matrix among the weights, each by one thread: see `training.soap`.

With the bases Q_L [k, k] and Q_R [m, m] of a matrix W [k, m] whose gradient is G:

    g = Q_L^T G Q_R        m += (1 - beta1) (g - m)        v += (1 - beta2) (g^2 - v)
    W -= step · Q_L [m / (sqrt(v) / root + epsilon)] Q_R^T

step = rate / (1 - beta1^t), root = sqrt(1 - beta2^t). Two pairs of products, each 2 k m (k + m) operations;
all that one matrix needs fits into a second-level cache. The other numbers, `rest`, take Adam's step. Where G
is zero W stays with m and v; elsewhere those rows of W stay whose rows of G are zero.
"""

import numpy as np
from numba import prange

from .blas import N, T, gemm, one_thread
from .compile import inner, kernel
from .simd import add_product


@inner
def _adam(u, m, v, g, constants):
    """u = m / (sqrt(v) / root + epsilon) after m and v have taken g in; u may be g."""
    for k in range(g.size):
        m[k] += constants[0] * (g[k] - m[k])
        v[k] += constants[1] * (g[k] * g[k] - v[k])
        u[k] = m[k] / (np.sqrt(v[k]) * constants[3] + constants[4])


@kernel
def soap_step_cpu(w, m, v, g, places, rest, left, right, right_turned, left_at, right_at, constants):
    """w, m, v, g [W], without gaps; places[i] = (start, k, m, from row to row) of matrix i, whose bases begin
    at left_at[i] in left[.] and right_at[i] in right[.], of which right_turned[.] holds the transposes;
    constants = (1 - beta1, 1 - beta2, step, 1 / root, epsilon) in w's dtype."""
    for i in prange(places.shape[0] + 1):
        if i == places.shape[0]:
            for r in range(rest.size):
                at = rest[r]
                if g[at] == 0:
                    continue
                u = g[at : at + 1].copy()
                _adam(u, m[at : at + 1], v[at : at + 1], u, constants)
                w[at] -= constants[2] * u[0]
        else:
            start, rows, columns, stride = places[i]
            still = np.array([not g[start + r * stride :][:columns].any() for r in range(rows)])
            if still.all():
                continue
            scratch = np.zeros((3, rows, columns), w.dtype)
            half, turned, back = scratch[0], scratch[1], scratch[2]
            one, L, R, c = w.dtype.type(1), left_at[i], right_at[i], columns
            add_product(half, 0, c, left, L, 1, rows, g, start, stride, rows, rows, c, one)
            add_product(turned, 0, c, half, 0, c, 1, right, R, c, rows, c, c, one)
            for r in range(rows):
                at = start + r * stride
                _adam(turned[r], m[at : at + columns], v[at : at + columns], turned[r], constants)
            add_product(back, 0, c, left, L, rows, 1, turned, 0, c, rows, rows, c, one)
            for r in range(rows):
                if still[r]:
                    half[r] = w[start + r * stride : start + r * stride + columns]
            add_product(w, start, stride, back, 0, c, 1, right_turned, R, c, rows, c, c, -constants[2])
            for r in range(rows):
                if still[r]:
                    w[start + r * stride : start + r * stride + columns] = half[r]


@kernel
def _observe(left, right, g, places, left_at, right_at, share):
    """L += share (G G^T - L), R += share (G^T G - R), where these products are finite and G is not zero;
    share [1]."""
    for i in prange(places.shape[0]):
        start, rows, columns, stride = places[i]
        factors = np.zeros(2, g.dtype)
        factors[0] = share[0]
        G = (g[start:], stride)
        new = np.empty(max(rows, columns) ** 2, g.dtype)
        for side in range(2):
            size = columns if side else rows
            if side:
                gemm((new, size), G, G, size, rows, size, T, N, factors)
                old = right[right_at[i] : right_at[i] + size * size]
            else:
                gemm((new, size), G, G, size, columns, size, N, T, factors)
                old = left[left_at[i] : left_at[i] + size * size]
            total = new.dtype.type(0)
            for r in range(size * size):
                total += abs(new[r])
            if 0 < total < np.inf:  # np.isfinite let infinities pass under these flags
                for r in range(size * size):
                    old[r] += new[r] - share[0] * old[r]


def soap_observe_cpu(left, right, g, places, left_at, right_at, share):
    """Take a gradient into the factors: L += share (G G^T - L), R += share (G^T G - R)."""
    with one_thread:
        _observe(left, right, g, places, left_at, right_at, share)
