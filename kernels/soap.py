"""One step of SOAP for every matrix among the weights, each by one thread: see `eqpot.soap`.

With the bases Q_L [k, k] and Q_R [m, m] of a matrix W [k, m] whose gradient is G:

    g = Q_L^T G Q_R        m += (1 - beta1) (g - m)        v += (1 - beta2) (g^2 - v)
    W -= step · Q_L [m / (sqrt(v) / root + epsilon)] Q_R^T

step = rate / (1 - beta1^t), root = sqrt(1 - beta2^t). Two pairs of products, each 2 k m (k + m) operations;
all that one matrix needs fits into a second-level cache. The other numbers, `rest`, take Adam's step.
"""

import numpy as np
from numba import prange

from .compile import inner, kernel
from .dense import N, T, _add_product


@inner
def _adam(u, m, v, g, constants):
    """u = m / (sqrt(v) / root + epsilon) after m and v have taken g in; u may be g."""
    for k in range(g.size):
        m[k] += constants[0] * (g[k] - m[k])
        v[k] += constants[1] * (g[k] * g[k] - v[k])
        u[k] = m[k] / (np.sqrt(v[k]) * constants[3] + constants[4])


@kernel
def soap_step_cpu(w, m, v, g, places, rest, left, right, left_at, right_at, constants):
    """w, m, v, g [W], without gaps; places[i] = (start, k, m, from row to row) of matrix i, whose bases begin
    at left_at[i] in left[.] and right_at[i] in right[.]; constants = (1 - beta1, 1 - beta2, step, 1 / root,
    epsilon) in w's dtype."""
    for i in prange(places.shape[0] + 1):
        if i == places.shape[0]:
            for r in range(rest.size):
                at = rest[r]
                u = g[at : at + 1].copy()
                _adam(u, m[at : at + 1], v[at : at + 1], u, constants)
                w[at] -= constants[2] * u[0]
        else:
            start, rows, columns, stride = places[i]
            scratch = np.zeros((2, rows, columns), w.dtype)
            one = np.ones(2, w.dtype)
            half, turned = scratch[0], scratch[1]
            a, b = (left[left_at[i] :], rows), (right[right_at[i] :], columns)
            _add_product((half, columns), a, (g[start:], stride), rows, rows, columns, T, N, one)
            _add_product((turned, columns), (half, columns), b, rows, columns, columns, N, N, one)
            for r in range(rows):
                at = start + r * stride
                _adam(turned[r], m[at : at + columns], v[at : at + columns], turned[r], constants)
            half[:] = 0
            _add_product((half, columns), a, (turned, columns), rows, rows, columns, N, N, one)
            one[0] = -constants[2]
            _add_product((w[start:], stride), (half, columns), b, rows, columns, columns, N, T, one)
