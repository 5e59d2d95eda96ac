"""Activations, number by number, with their first two derivatives.

    kind  f(x)                           f'                        f''
    0     ssp  = ln(e^x / 2 + 1/2)       g = 1 / (1 + e^-x)        g (1 - g)
    1     silu = x g                     g + x g (1 - g)           g (1 - g) (2 + x (1 - 2 g))
    2     tanh = t                       1 - t^2                   -2 t (1 - t^2)

ssp is the shifted softplus of the radial network (Batzner et al., eq. 6), zero at zero. Exponentials are
taken of negative numbers only, so none overflows.

fwd: y = f(x); bwd: dx = f' dy; fwd_tan: ty = f' tx; bwd_tan: tdx = f' tdy + f'' tx dy.
Shapes: x[..., K], y[..., K]. Threads share chunks of numbers.
"""

from functools import partial

from numba import prange

from . import cuda as gpu
from .compile import inner, kernel
from .elementary import exp, expm1, log1p

cuda = None  # see cuda.py
CHUNK = 2048
SSP, SILU, TANH = 0, 1, 2


@inner
def sigmoid(x):
    one = type(x)(1)
    return one / (one + exp(-x))


@inner
def value(x, kind):
    """f(x)"""
    t = type(x)
    if kind == SSP:
        above = t(0) if x < t(0) else x
        return above + log1p(t(0.5) * expm1(-abs(x)))  # no cancellation near zero
    if kind == SILU:
        return x * sigmoid(x)
    return t(2) * sigmoid(t(2) * x) - t(1)


@inner
def slope(x, kind):
    """f'(x)"""
    one = type(x)(1)
    if kind == TANH:
        f = value(x, TANH)
        return one - f * f
    g = sigmoid(x)
    return g if kind == SSP else g + x * g * (one - g)


@inner
def slope_curvature(x, kind):
    """f'(x), f''(x)"""
    one, two = type(x)(1), type(x)(2)
    if kind == TANH:
        f = value(x, TANH)
        return one - f * f, -two * f * (one - f * f)
    g = sigmoid(x)
    h = g * (one - g)
    if kind == SSP:
        return g, h
    return g + x * h, h * (two + x * (one - two * g))


# ---- stretches of numbers; a loop that knows its activation becomes SIMD


@inner
def values(y, x, kind):
    """y = f(x)"""
    for k in range(x.size):
        y[k] = value(x[k], kind)


@inner
def add_slopes(dx, dy, x, kind):
    """dx += f' dy; also the forward tangent, into zeros."""
    for k in range(x.size):
        dx[k] += slope(x[k], kind) * dy[k]


@inner
def add_slopes_tan(tdx, tdy, tx, dy, x, kind):
    """The tangent of what add_slopes adds."""
    for k in range(x.size):
        f1, f2 = slope_curvature(x[k], kind)
        tdx[k] += f1 * tdy[k] + f2 * tx[k] * dy[k]


@kernel
def _fwd_cpu(y, x, kind):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        if kind == SSP:
            values(y[part], x[part], SSP)
        elif kind == SILU:
            values(y[part], x[part], SILU)
        else:
            values(y[part], x[part], TANH)


@kernel
def _bwd_cpu(dx, dy, x, kind):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        if kind == SSP:
            add_slopes(dx[part], dy[part], x[part], SSP)
        elif kind == SILU:
            add_slopes(dx[part], dy[part], x[part], SILU)
        else:
            add_slopes(dx[part], dy[part], x[part], TANH)


@kernel
def _bwd_tan_cpu(tdx, tdy, tx, dy, x, kind):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        if kind == SSP:
            add_slopes_tan(tdx[part], tdy[part], tx[part], dy[part], x[part], SSP)
        elif kind == SILU:
            add_slopes_tan(tdx[part], tdy[part], tx[part], dy[part], x[part], SILU)
        else:
            add_slopes_tan(tdx[part], tdy[part], tx[part], dy[part], x[part], TANH)


# ---- on a GPU


@gpu.kernel(lambda y, *_: y.size)
def _fwd_cuda(y, x, kind):
    """A thread takes one number; 32 registers; 8 bytes, 5 to 7 operations."""
    for k in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        y[k] = value(x[k], kind)


@gpu.kernel(lambda dx, *_: dx.size)
def _bwd_cuda(dx, dy, x, kind):
    """A thread takes one number; 31 registers; 16 bytes, 6 to 11 operations."""
    for k in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        dx[k] += slope(x[k], kind) * dy[k]


@gpu.kernel(lambda tdx, *_: tdx.size)
def _bwd_tan_cuda(tdx, tdy, tx, dy, x, kind):
    """A thread takes one number; 30 registers; 24 bytes, 11 to 19 operations."""
    for k in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        f1, f2 = slope_curvature(x[k], kind)
        tdx[k] += f1 * tdy[k] + f2 * tx[k] * dy[k]


# ---- the table's signatures


def _fwd(run, y, x, kind):
    run(y.reshape(-1), x.reshape(-1), kind)


def _bwd(run, dx, dy, x, kind):
    if dx is not None:
        run(dx.reshape(-1), dy.reshape(-1), x.reshape(-1), kind)


def _fwd_tan(run, ty, tx, x, kind):
    ty[...] = 0
    if tx is not None:
        run(ty.reshape(-1), tx.reshape(-1), x.reshape(-1), kind)


def _bwd_tan(run, still, tdx, tdy, tx, dy, x, kind):
    if tx is None:
        _bwd(still, tdx, tdy, x, kind)
    elif tdx is not None:
        run(tdx.reshape(-1), tdy.reshape(-1), tx.reshape(-1), dy.reshape(-1), x.reshape(-1), kind)


activation_fwd_cpu, activation_fwd_cuda = partial(_fwd, _fwd_cpu), partial(_fwd, _fwd_cuda)
activation_bwd_cpu, activation_bwd_cuda = partial(_bwd, _bwd_cpu), partial(_bwd, _bwd_cuda)
activation_fwd_tan_cpu, activation_fwd_tan_cuda = partial(_fwd_tan, _bwd_cpu), partial(_fwd_tan, _bwd_cuda)
activation_bwd_tan_cpu = partial(_bwd_tan, _bwd_tan_cpu, _bwd_cpu)
activation_bwd_tan_cuda = partial(_bwd_tan, _bwd_tan_cuda, _bwd_cuda)
