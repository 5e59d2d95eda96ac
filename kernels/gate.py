"""Equivariant nonlinearities: `gate` (Batzner et al. 2022, Methods) and the preprint's `norm`.

gate, on g[n] = [gates (Cv) | scalars (C)] and v[n, 3, Cv]:

    s_out = act(scalars)      v_out = v q,  q = silu(gates)

norm, on s[n, C] and v[n, 3, Cv]:

    s_out = act(s)            v_out = v q,  q = ssp(l),  l = sqrt(v . v + eps^2)

`act` is silu (norm: ssp) for the first n_even scalars and tanh for the rest, which are odd under a mirror and
need an odd function. eps = 1e-3 keeps l, and so the forces, smooth where a vector vanishes. Cv may be 0.

Backward of the gate: dg = [q' (v . dv_out) | act' ds_out], dv += q dv_out. Its tangents, with b = v . dv_out:
    tv_out = tv q + v q' tgates
    tdgates += q'' tgates b + q' (tv . dv_out + v . tdv_out)      tdv += q tdv_out + q' tgates dv_out
Backward of the norm, with q'(l) = dq/dl and k = q'/l:  dv += q dv_out + k b v. Its tangents, with
m = v . tv (so tl = m / l), tk = (q''/l - q'/l^2) m / l:
    tv_out = tv q + k m v
    tdv += q tdv_out + k m dv_out + k b tv + (tk b + k (tv . dv_out + v . tdv_out)) v

Shapes: s_out[n, C], v_out[n, 3, Cv]; none has a unit. Threads share chunks of atoms.
"""

import math
from functools import partial

import numpy as np
from numba import prange

from . import cuda as gpu
from .activation import SILU, SSP, TANH, add_slopes, add_slopes_tan, slope, slope_curvature, value, values
from .arguments import or_zero
from .compile import inner, kernel

cuda = None  # see cuda.py
CHUNK = 16
NORM_EPS = 1e-3


# ---- rows of channels: a loop writes one row and knows its activation, so all become SIMD


@inner
def _act(s_out, s, n_even, even):
    values(s_out[:n_even], s[:n_even], even)
    values(s_out[n_even:], s[n_even:], TANH)


@inner
def _add_slopes(ds, ds_out, s, n_even, even):
    add_slopes(ds[:n_even], ds_out[:n_even], s[:n_even], even)
    add_slopes(ds[n_even:], ds_out[n_even:], s[n_even:], TANH)


@inner
def _add_slopes_tan(tds, tds_out, ts, ds_out, s, n_even, even):
    k = n_even
    add_slopes_tan(tds[:k], tds_out[:k], ts[:k], ds_out[:k], s[:k], even)
    add_slopes_tan(tds[k:], tds_out[k:], ts[k:], ds_out[k:], s[k:], TANH)


@inner
def _add_product(out, a, b):
    for c in range(out.size):
        out[c] += a[c] * b[c]


@inner
def _product(out, a, b):
    for c in range(out.size):
        out[c] = a[c] * b[c]


@inner
def _dot_rows(out, a, b):
    """out = a . b for a[3, C], b[3, C]"""
    out[:] = 0
    for d in range(a.shape[0]):
        _add_product(out, a[d], b[d])


@inner
def _dot(a, b, i, c):
    """a . b of atom i, channel c"""
    return a[i, 0, c] * b[i, 0, c] + a[i, 1, c] * b[i, 1, c] + a[i, 2, c] * b[i, 2, c]


# ---- gate, on a CPU


@inner
def gate_row(s_out, v_out, gates, s, v, n_even, held):
    """One atom: s_out[C], v_out[3, Cv] from gates[Cv], s[C], v[3, Cv]; held[1, C] is scratch.

    Without vectors, v and v_out may have no rows.
    """
    q = held[0, : gates.size]
    _act(s_out, s, n_even, SILU)
    values(q, gates, SILU)
    for d in range(v.shape[0]):
        _product(v_out[d], q, v[d])


@inner
def gate_row_bwd(dgates, ds, dv, ds_out, dv_out, gates, s, v, n_even, held):
    """Adds to dgates, ds and dv; held[2, C] is scratch."""
    q, b = held[0, : gates.size], held[1, : gates.size]
    _add_slopes(ds, ds_out, s, n_even, SILU)
    values(q, gates, SILU)
    _dot_rows(b, v, dv_out)
    add_slopes(dgates, b, gates, SILU)
    for d in range(v.shape[0]):
        _add_product(dv[d], q, dv_out[d])


@inner
def gate_row_fwd_tan(ts_out, tv_out, tgates, ts, tv, gates, s, v, n_even, held):
    q, tq = held[0, : gates.size], held[1, : gates.size]
    ts_out[:] = 0
    tq[:] = 0
    _add_slopes(ts_out, ts, s, n_even, SILU)
    values(q, gates, SILU)
    add_slopes(tq, tgates, gates, SILU)
    for d in range(v.shape[0]):
        _product(tv_out[d], q, tv[d])
        _add_product(tv_out[d], tq, v[d])


@inner
def gate_row_bwd_tan(
    tdgates, tds, tdv, tds_out, tdv_out, tgates, ts, tv, ds_out, dv_out, gates, s, v, n_even, held
):
    """Adds to tdgates, tds and tdv; held[4, C] is scratch."""
    q, tq, b, tb = held[0, : gates.size], held[1, : gates.size], held[2, : gates.size], held[3, : gates.size]
    _add_slopes_tan(tds, tds_out, ts, ds_out, s, n_even, SILU)
    values(q, gates, SILU)
    tq[:] = 0
    add_slopes(tq, tgates, gates, SILU)
    _dot_rows(b, v, dv_out)
    _dot_rows(tb, v, tdv_out)
    for d in range(v.shape[0]):
        _add_product(tb, tv[d], dv_out[d])
    add_slopes_tan(tdgates, tb, tgates, b, gates, SILU)
    for d in range(v.shape[0]):
        _add_product(tdv[d], q, tdv_out[d])
        _add_product(tdv[d], tq, dv_out[d])


@kernel
def gate_fwd_cpu(s_out, v_out, g, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        held = np.empty((1, Cv), g.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            gate_row(s_out[i], v_out[i], g[i, :Cv], g[i, Cv:], v[i], n_even, held)


@kernel
def _gate_bwd_cpu(dg, dv, ds_out, dv_out, g, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        held = np.empty((2, Cv), g.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            dgates, ds, gates, s = dg[i, :Cv], dg[i, Cv:], g[i, :Cv], g[i, Cv:]
            gate_row_bwd(dgates, ds, dv[i], ds_out[i], dv_out[i], gates, s, v[i], n_even, held)


@kernel
def _gate_fwd_tan_cpu(ts_out, tv_out, tg, tv, g, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        held = np.empty((2, Cv), g.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            tgates, ts, gates, s = tg[i, :Cv], tg[i, Cv:], g[i, :Cv], g[i, Cv:]
            gate_row_fwd_tan(ts_out[i], tv_out[i], tgates, ts, tv[i], gates, s, v[i], n_even, held)


@kernel
def _gate_bwd_tan_cpu(tdg, tdv, tds_out, tdv_out, tg, tv, ds_out, dv_out, g, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        held = np.empty((4, Cv), g.dtype)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            td, t, x = (tdg[i, :Cv], tdg[i, Cv:]), (tg[i, :Cv], tg[i, Cv:]), (g[i, :Cv], g[i, Cv:])
            d = tds_out[i], tdv_out[i]
            gate_row_bwd_tan(*td, tdv[i], *d, *t, tv[i], ds_out[i], dv_out[i], *x, v[i], n_even, held)


# ---- norm: the vectors of one atom and channel, on CPU and GPU


@inner
def _length(v, i, c):
    t = v.dtype.type
    return t(math.sqrt(_dot(v, v, i, c) + t(NORM_EPS) * t(NORM_EPS)))


@inner
def _norm(i, c, v_out, v):
    q = value(_length(v, i, c), SSP)
    for d in range(3):
        v_out[i, d, c] = q * v[i, d, c]


@inner
def _add_norm_moved(i, c, y, x, v):
    """y += J x with dv_out/dv = J = q + k v v^T, which is symmetric: forward for tangents, and back."""
    length = _length(v, i, c)
    q, k = value(length, SSP), slope(length, SSP) / length
    kb = k * _dot(v, x, i, c)
    for d in range(3):
        y[i, d, c] += q * x[i, d, c] + kb * v[i, d, c]


@inner
def _norm_bwd_tan(i, c, tdv, tdv_out, tv, dv_out, v):
    length = _length(v, i, c)
    q1, q2 = slope_curvature(length, SSP)
    q, k = value(length, SSP), q1 / length
    m, b = _dot(v, tv, i, c), _dot(v, dv_out, i, c)
    tk = (q2 - k) * m / (length * length)
    along = tk * b + k * (_dot(tv, dv_out, i, c) + _dot(v, tdv_out, i, c))
    for d in range(3):
        tdv[i, d, c] += q * tdv_out[i, d, c] + k * m * dv_out[i, d, c]
        tdv[i, d, c] += k * b * tv[i, d, c] + along * v[i, d, c]


# ---- norm, on a CPU


@kernel
def norm_fwd_cpu(s_out, v_out, s, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            _act(s_out[i], s[i], n_even, SSP)
            for c in range(Cv):
                _norm(i, c, v_out, v)


@kernel
def _norm_bwd_cpu(ds, dv, ds_out, dv_out, s, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            _add_slopes(ds[i], ds_out[i], s[i], n_even, SSP)
            for c in range(Cv):
                _add_norm_moved(i, c, dv, dv_out, v)


@kernel
def _norm_fwd_tan_cpu(ts_out, tv_out, ts, tv, s, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            ts_out[i] = 0
            tv_out[i] = 0
            _add_slopes(ts_out[i], ts[i], s[i], n_even, SSP)
            for c in range(Cv):
                _add_norm_moved(i, c, tv_out, tv, v)


@kernel
def _norm_bwd_tan_cpu(tds, tdv, tds_out, tdv_out, ts, tv, ds_out, dv_out, s, v, n_even):
    n, _, Cv = v.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            _add_slopes_tan(tds[i], tds_out[i], ts[i], ds_out[i], s[i], n_even, SSP)
            for c in range(Cv):
                _norm_bwd_tan(i, c, tdv, tdv_out, tv, dv_out, v)


# ---- on a GPU: a thread for each channel


@gpu.kernel(lambda s_out, v_out, *_: max(s_out.size, v_out.size // 3))
def gate_fwd_cuda(s_out, v_out, g, v, n_even):
    """A thread takes one channel of one atom; 32 registers; 36 bytes, 13 operations."""
    n, C = s_out.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            s_out[i, c] = value(g[i, Cv + c], SILU if c < n_even else TANH)
        if c < Cv:
            q = value(g[i, c], SILU)
            for d in range(3):
                v_out[i, d, c] = q * v[i, d, c]


@gpu.kernel(lambda dg, dv, *_: max(dg.size - dv.size // 3, dv.size // 3))
def _gate_bwd_cuda(dg, dv, ds_out, dv_out, g, v, n_even):
    """A thread takes one channel of one atom; 32 registers; 76 bytes, 36 operations."""
    n, C = ds_out.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            dg[i, Cv + c] += slope(g[i, Cv + c], SILU if c < n_even else TANH) * ds_out[i, c]
        if c < Cv:
            q = value(g[i, c], SILU)
            b = _dot(v, dv_out, i, c)
            dg[i, c] += slope(g[i, c], SILU) * b
            for d in range(3):
                dv[i, d, c] += q * dv_out[i, d, c]


@gpu.kernel(lambda ts_out, tv_out, *_: max(ts_out.size, tv_out.size // 3))
def _gate_fwd_tan_cuda(ts_out, tv_out, tg, tv, g, v, n_even):
    """A thread takes one channel of one atom; 31 registers; 56 bytes, 32 operations."""
    n, C = ts_out.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            ts_out[i, c] = slope(g[i, Cv + c], SILU if c < n_even else TANH) * tg[i, Cv + c]
        if c < Cv:
            q, tq = value(g[i, c], SILU), slope(g[i, c], SILU) * tg[i, c]
            for d in range(3):
                tv_out[i, d, c] = q * tv[i, d, c] + tq * v[i, d, c]


@gpu.kernel(lambda tdg, tdv, *_: max(tdg.size - tdv.size // 3, tdv.size // 3))
def _gate_bwd_tan_cuda(tdg, tdv, tds_out, tdv_out, tg, tv, ds_out, dv_out, g, v, n_even):
    """A thread takes one channel of one atom; 48 registers; 112 bytes, 72 operations."""
    n, C = ds_out.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            f1, f2 = slope_curvature(g[i, Cv + c], SILU if c < n_even else TANH)
            tdg[i, Cv + c] += f1 * tds_out[i, c] + f2 * tg[i, Cv + c] * ds_out[i, c]
        if c < Cv:
            q = value(g[i, c], SILU)
            f1, f2 = slope_curvature(g[i, c], SILU)
            b = _dot(v, dv_out, i, c)
            tb = _dot(v, tdv_out, i, c) + _dot(tv, dv_out, i, c)
            tdg[i, c] += f1 * tb + f2 * tg[i, c] * b
            for d in range(3):
                tdv[i, d, c] += q * tdv_out[i, d, c] + f1 * tg[i, c] * dv_out[i, d, c]


@gpu.kernel(lambda s_out, v_out, *_: max(s_out.size, v_out.size // 3))
def norm_fwd_cuda(s_out, v_out, s, v, n_even):
    """A thread takes one channel of one atom; 32 registers; 32 bytes, 25 operations."""
    n, C = s.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            s_out[i, c] = value(s[i, c], SSP if c < n_even else TANH)
        if c < Cv:
            _norm(i, c, v_out, v)


@gpu.kernel(lambda ds, dv, *_: max(ds.size, dv.size // 3))
def _norm_bwd_cuda(ds, dv, ds_out, dv_out, s, v, n_even):
    """A thread takes one channel of one atom; 37 registers; 64 bytes, 44 operations."""
    n, C = s.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            ds[i, c] += slope(s[i, c], SSP if c < n_even else TANH) * ds_out[i, c]
        if c < Cv:
            _add_norm_moved(i, c, dv, dv_out, v)


@gpu.kernel(lambda ts_out, tv_out, *_: max(ts_out.size, tv_out.size // 3))
def _norm_fwd_tan_cuda(ts_out, tv_out, ts, tv, s, v, n_even):
    """A thread takes one channel of one atom; 37 registers; 48 bytes, 40 operations."""
    n, C = s.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            ts_out[i, c] = slope(s[i, c], SSP if c < n_even else TANH) * ts[i, c]
        if c < Cv:
            for d in range(3):
                tv_out[i, d, c] = 0
            _add_norm_moved(i, c, tv_out, tv, v)


@gpu.kernel(lambda tds, tdv, *_: max(tds.size, tdv.size // 3))
def _norm_bwd_tan_cuda(tds, tdv, tds_out, tdv_out, ts, tv, ds_out, dv_out, s, v, n_even):
    """A thread takes one channel of one atom; 60 registers; 96 bytes, 87 operations."""
    n, C = s.shape
    Cv = v.shape[2]
    widest = max(C, Cv)
    for k in range(cuda.grid(1), n * widest, cuda.gridsize(1)):
        i, c = k // widest, k % widest
        if c < C:
            f1, f2 = slope_curvature(s[i, c], SSP if c < n_even else TANH)
            tds[i, c] += f1 * tds_out[i, c] + f2 * ts[i, c] * ds_out[i, c]
        if c < Cv:
            _norm_bwd_tan(i, c, tdv, tdv_out, tv, dv_out, v)


# ---- the table's signatures: inputs that do not move, results that nobody asked for


def _bwd(run, ds, dv, ds_out, dv_out, s, v, n_even):
    run(or_zero(ds, s), or_zero(dv, v), ds_out, dv_out, s, v, n_even)


def _fwd_tan(run, ts_out, tv_out, ts, tv, s, v, n_even):
    run(ts_out, tv_out, or_zero(ts, s), or_zero(tv, v), s, v, n_even)


def _bwd_tan(run, tds, tdv, tds_out, tdv_out, ts, tv, ds_out, dv_out, s, v, n_even):
    tds, tdv, ts, tv = or_zero(tds, s), or_zero(tdv, v), or_zero(ts, s), or_zero(tv, v)
    run(tds, tdv, tds_out, tdv_out, ts, tv, ds_out, dv_out, s, v, n_even)


gate_bwd_cpu, gate_bwd_cuda = partial(_bwd, _gate_bwd_cpu), partial(_bwd, _gate_bwd_cuda)
gate_fwd_tan_cpu, gate_fwd_tan_cuda = (
    partial(_fwd_tan, _gate_fwd_tan_cpu),
    partial(_fwd_tan, _gate_fwd_tan_cuda),
)
gate_bwd_tan_cpu, gate_bwd_tan_cuda = (
    partial(_bwd_tan, _gate_bwd_tan_cpu),
    partial(_bwd_tan, _gate_bwd_tan_cuda),
)
norm_bwd_cpu, norm_bwd_cuda = partial(_bwd, _norm_bwd_cpu), partial(_bwd, _norm_bwd_cuda)
norm_fwd_tan_cpu, norm_fwd_tan_cuda = (
    partial(_fwd_tan, _norm_fwd_tan_cpu),
    partial(_fwd_tan, _norm_fwd_tan_cuda),
)
norm_bwd_tan_cpu, norm_bwd_tan_cuda = (
    partial(_bwd_tan, _norm_bwd_tan_cpu),
    partial(_bwd_tan, _norm_bwd_tan_cuda),
)
