"""One step of Adam and of the moving average, in one pass over the weights: see `training.adam`.

Number by number, for a gradient g:

    m += (1 - beta1) (g - m)          v += (1 - beta2) (g^2 - v)          [v_max = max(v, v_max)]
    w -= step · m / (sqrt(v) / root + epsilon),   step = rate / (1 - beta1^t), root = sqrt(1 - beta2^t)
    average += share (w - average)

Each array is read and written once. Threads share chunks of weights.
"""

import math

import numpy as np
from numba import prange

from . import cuda as gpu
from .compile import inner, kernel

cuda = None  # see cuda.py
CHUNK = 4096


@inner
def _moments(m, v, g, one_minus_beta1, one_minus_beta2):
    for k in range(g.size):
        m[k] += one_minus_beta1 * (g[k] - m[k])
        v[k] += one_minus_beta2 * (g[k] * g[k] - v[k])


@inner
def _largest(v_max, v):
    for k in range(v.size):
        v_max[k] = max(v_max[k], v[k])


@inner
def _move(w, m, v, step, over_root, epsilon):
    for k in range(w.size):
        w[k] -= step * m[k] / (np.sqrt(v[k]) * over_root + epsilon)


@inner
def _follow(average, w, share):
    for k in range(w.size):
        average[k] += share * (w[k] - average[k])


@kernel
def adam_step_cpu(w, m, v, v_max, g, constants):
    """constants = (1 - beta1, 1 - beta2, step, 1 / root, epsilon) in w's dtype; v_max may be empty."""
    for chunk in prange((w.size + CHUNK - 1) // CHUNK):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        _moments(m[part], v[part], g[part], constants[0], constants[1])
        if v_max.size:
            _largest(v_max[part], v[part])
            _move(w[part], m[part], v_max[part], constants[2], constants[3], constants[4])
        else:
            _move(w[part], m[part], v[part], constants[2], constants[3], constants[4])


@kernel
def average_step_cpu(average, w, share):
    """share, an array of one number, is how much of w is taken in."""
    for chunk in prange((w.size + CHUNK - 1) // CHUNK):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        _follow(average[part], w[part], share[0])


@gpu.kernel(lambda w, *_: w.size)
def adam_step_cuda(w, m, v, v_max, g, constants):
    """A thread takes one weight; 32 registers; 28 bytes, 36 with v_max, 13 operations."""
    for k in range(cuda.grid(1), w.size, cuda.gridsize(1)):
        m[k] += constants[0] * (g[k] - m[k])
        v[k] += constants[1] * (g[k] * g[k] - v[k])
        largest = v[k]
        if v_max.size:
            largest = v_max[k] if v_max[k] > largest else largest
            v_max[k] = largest
        w[k] -= constants[2] * m[k] / (math.sqrt(largest) * constants[3] + constants[4])


@gpu.kernel(lambda average, *_: average.size)
def average_step_cuda(average, w, share):
    """A thread takes one weight; 30 registers; 12 bytes, 3 operations."""
    for k in range(cuda.grid(1), w.size, cuda.gridsize(1)):
        average[k] += share[0] * (w[k] - average[k])
