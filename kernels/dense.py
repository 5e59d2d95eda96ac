"""Dense mixing of channels: the self-interactions, the self-connection and the radial network are this
operator.

    y[R_g, y_col : y_col + m] += scale x[R_g, x_col : x_col + k] @ W_g[k, m]     for every group g and piece

`x[..., K]`: all leading axes are rows, so a vector's three components share one matrix. Rows come in groups
(one group, or one per species): R_g = row_ptr[g] : row_ptr[g + 1]. `pieces[nb, 5]` = (x_col, k, y_col, m,
offset) place each matrix, which starts at `offset` in the flat weights w[g] (parity under O(3) makes the
mixing block-diagonal); `scales[nb]` are static factors such as 1 / sqrt(k). Columns that no piece writes are
zero.

Backward: dx = scale dy W^T, dW = scale x^T dy. The product is bilinear, hence
fwd_tan: ty = scale (tx W + x tW); bwd_tan: tdx = scale (tdy W^T + dy tW^T), tdW = scale (x^T tdy + tx^T dy).

Matrix products go to `blas`, on one thread each: threads share chunks of rows, or tiles of dW, which fixes
every sum's order whatever the number of threads.

On a GPU many rows go to cuBLAS, one product for each group and piece, in plain float32 (no TF32) or float64.
Up to OWN_ROWS of them, where launches are what takes time, one kernel takes all groups and pieces: y from a
thread for each column of STRIP rows, which share what they read of W; dW from a thread for each of its
numbers and CHUNK rows, whose sums a second kernel adds up in order. cuBLAS cannot be recorded in a CUDA graph
by CuPy, these kernels can.
"""

from functools import partial
from itertools import pairwise

import numpy as np
from numba import prange

from . import cuda as gpu
from .blas import N, T, gemm, one_thread
from .compile import kernel

cuda = None  # see cuda.py
ROWS = 32  # rows per unit of parallel work
TILE = 32  # rows of dW per unit of parallel work

# Rows up to which a GPU does without cuBLAS, and the simulator without NumPy, which is faster there.
OWN_ROWS = 40 if gpu.SIMULATED else gpu.RECORDED_ROWS
STRIP, CHUNK = 8, 64


@kernel
def _mix(y, x, w, row_ptr, pieces, scales, transpose, overwrite):
    """y += x W, or y += x W^T with the roles of a piece's columns exchanged; rows[n, columns]."""
    n = y.shape[0]
    for chunk in prange((n + ROWS - 1) // ROWS):
        start, end = chunk * ROWS, min(n, (chunk + 1) * ROWS)
        if overwrite:
            y[start:end] = 0
        factors = np.ones(2, y.dtype)
        for g in range(row_ptr.size - 1):
            lo, hi = max(start, row_ptr[g]), min(end, row_ptr[g + 1])
            if lo >= hi:
                continue
            for b in range(pieces.shape[0]):
                x_col, k, y_col, m, offset = pieces[b]
                factors[0] = scales[b]
                matrix = (w[g, offset:], m)
                if transpose:
                    gemm(
                        (y[lo, x_col:], y.shape[1]),
                        (x[lo, y_col:], x.shape[1]),
                        matrix,
                        hi - lo,
                        m,
                        k,
                        N,
                        T,
                        factors,
                    )
                else:
                    gemm(
                        (y[lo, y_col:], y.shape[1]),
                        (x[lo, x_col:], x.shape[1]),
                        matrix,
                        hi - lo,
                        k,
                        m,
                        N,
                        N,
                        factors,
                    )


@kernel
def _mix_weights(dw, x, dy, row_ptr, pieces, scales, tiles):
    """dW += scale x^T dy; tiles[., 4] = (group, piece, first row, number of rows) of dW."""
    for t in prange(tiles.shape[0]):
        g, b, first, rows = tiles[t]
        lo, hi = row_ptr[g], row_ptr[g + 1]
        if lo >= hi:
            continue
        x_col, k, y_col, m, offset = pieces[b]
        factors = np.ones(2, dw.dtype)
        factors[0] = scales[b]
        gemm(
            (dw[g, offset + first * m :], m),
            (x[lo, x_col + first :], x.shape[1]),
            (dy[lo, y_col:], dy.shape[1]),
            rows,
            hi - lo,
            m,
            T,
            N,
            factors,
        )


_TILES: dict[tuple, np.ndarray] = {}


def _tiles(groups, pieces):
    """Cut every group's matrices into tiles of rows; kept by layout, of which a model has a few dozen."""
    key = (groups, pieces.tobytes())
    if key not in _TILES:
        rows = [
            (g, b, first, min(TILE, piece[1] - first))
            for g in range(groups)
            for b, piece in enumerate(pieces)
            for first in range(0, piece[1], TILE)
        ]
        _TILES[key] = np.array(rows, np.int64).reshape(-1, 4)
    return _TILES[key]


def _rows(x):
    return x.reshape(-1, x.shape[-1])


def _mix_cpu(y, x, w, row_ptr, pieces, scales, transpose, overwrite):
    with one_thread:
        _mix(_rows(y), _rows(x), w, row_ptr, pieces, scales, transpose, overwrite)


def _mix_weights_cpu(dw, x, dy, row_ptr, pieces, scales):
    with one_thread:
        _mix_weights(dw, _rows(x), _rows(dy), row_ptr, pieces, scales, _tiles(len(dw), pieces))


@gpu.Device
def _place(row_ptr, size, k):
    """Group, first row and end of the k-th run of at most `size` rows of one group; group -1: no more."""
    for g in range(row_ptr.size - 1):
        lo, hi = row_ptr[g], row_ptr[g + 1]
        runs = (hi - lo + size - 1) // size
        if k < runs:
            return g, lo + k * size, min(lo + (k + 1) * size, hi)
        k -= runs
    return -1, 0, 0


def _runs(rows, groups, size):
    """How many such runs there are at most."""
    return rows // size + groups


@gpu.kernel(lambda y, x, w, row_ptr, *_: _runs(len(y), len(row_ptr) - 1, STRIP) * y.shape[1])
def _mix_rows(y, x, w, row_ptr, pieces, scales, transpose, overwrite):
    """All of _mix. A thread takes one column of STRIP rows. 72 registers; of a piece with k rows of W it
    reads k numbers of W, and k of x for each row, which its warp reads too; 2 k operations a row."""
    n, M = y.shape
    total, part = cuda.local.array(STRIP, y.dtype), cuda.local.array(STRIP, y.dtype)
    zero = y.dtype.type(0)
    for q in range(cuda.grid(1), (n // STRIP + row_ptr.size - 1) * M, cuda.gridsize(1)):
        m = q % M
        g, first, last = _place(row_ptr, STRIP, q // M)
        if g < 0:
            continue
        for t in range(STRIP):
            total[t] = zero
        for b in range(pieces.shape[0]):
            x_col, k, y_col, columns, offset = (
                pieces[b, 0],
                pieces[b, 1],
                pieces[b, 2],
                pieces[b, 3],
                pieces[b, 4],
            )
            along, across = columns, 1  # from row to row of W, from column to column
            if transpose:
                x_col, k, y_col, columns, along, across = y_col, columns, x_col, k, across, along
            if m < y_col or m >= y_col + columns:
                continue
            for t in range(STRIP):
                part[t] = zero
            at = offset + (m - y_col) * across
            for p in range(k):
                W = w[g, at + p * along]
                for t in range(STRIP):
                    # A row past the end is read as the last one, and not written.
                    part[t] += x[min(first + t, last - 1), x_col + p] * W
            for t in range(STRIP):
                total[t] += y.dtype.type(scales[b]) * part[t]
        for t in range(STRIP):
            if first + t < last:
                y[first + t, m] = total[t] if overwrite else y[first + t, m] + total[t]


@gpu.kernel(lambda parts, *_: parts.size)
def _weights_of_rows(parts, x, dy, row_ptr, pieces):
    """parts[c, s]: number s of x^T dy, unscaled, from the rows of run c, CHUNK rows of one group. A thread
    takes one. 70 registers; 4 to 8 bytes and 2 operations a row."""
    S = parts.shape[1]
    for q in range(cuda.grid(1), parts.size, cuda.gridsize(1)):
        c, s = q // S, q % S
        g, first, last = _place(row_ptr, CHUNK, c)
        total = parts.dtype.type(0)
        for b in range(pieces.shape[0]):
            at, m = s - pieces[b, 4], pieces[b, 3]
            if 0 <= at < pieces[b, 1] * m:
                i, j = pieces[b, 0] + at // m, pieces[b, 2] + at % m
                for r in range(first, last):
                    total += x[r, i] * dy[r, j]
        parts[c, s] = total


@gpu.kernel(lambda dw, *_: dw.size)
def _add_parts(dw, parts, row_ptr, pieces, scales):
    """dw[g, s] += scale times the parts of group g, in order. A thread takes one. 38 registers; 4 bytes and
    an operation a part."""
    S = dw.shape[1]
    for q in range(cuda.grid(1), dw.size, cuda.gridsize(1)):
        g, s = q // S, q % S
        first = 0
        for before in range(g):
            first += (row_ptr[before + 1] - row_ptr[before] + CHUNK - 1) // CHUNK
        total = dw.dtype.type(0)
        for c in range(first, first + (row_ptr[g + 1] - row_ptr[g] + CHUNK - 1) // CHUNK):
            total += parts[c, s]
        for b in range(pieces.shape[0]):
            if 0 <= s - pieces[b, 4] < pieces[b, 1] * pieces[b, 3]:
                dw[g, s] += dw.dtype.type(scales[b]) * total


def _mix_cuda(y, x, w, row_ptr, pieces, scales, transpose, overwrite):
    """`row_ptr`, `pieces` and `scales` are on the host: they say which products to ask for."""
    y, x = _rows(y), _rows(x)
    if len(y) <= OWN_ROWS:
        _mix_rows(y, x, w, *map(gpu.constant, (row_ptr, pieces, scales)), transpose, overwrite)
        return
    if overwrite:
        y[...] = 0
    for g, (lo, hi) in enumerate(pairwise(row_ptr.tolist())):
        for (x_col, k, y_col, m, offset), scale in zip(pieces.tolist(), scales.tolist(), strict=True):
            W = w[g, offset : offset + k * m].reshape(k, m)
            if lo < hi and transpose:
                add_matmul(y[lo:hi, x_col : x_col + k], x[lo:hi, y_col : y_col + m], W.T, scale)
            elif lo < hi:
                add_matmul(y[lo:hi, y_col : y_col + m], x[lo:hi, x_col : x_col + k], W, scale)


def _mix_weights_cuda(dw, x, dy, row_ptr, pieces, scales):
    x, dy = _rows(x), _rows(dy)
    if len(x) <= OWN_ROWS:
        parts = np.empty_like(dw, shape=(_runs(len(x), len(dw), CHUNK), dw.shape[1]))
        layout = gpu.constant(row_ptr), gpu.constant(pieces)
        _weights_of_rows(parts, x, dy, *layout)
        _add_parts(dw, parts, *layout, gpu.constant(scales))
        return
    for g, (lo, hi) in enumerate(pairwise(row_ptr.tolist())):
        for (x_col, k, y_col, m, offset), scale in zip(pieces.tolist(), scales.tolist(), strict=True):
            if lo < hi:
                to = dw[g, offset : offset + k * m].reshape(k, m)
                add_matmul(to, x[lo:hi, x_col : x_col + k].T, dy[lo:hi, y_col : y_col + m], scale)


def add_matmul(c, a, b, factor):
    """c += factor a b for matrices on the GPU, each row-major with any distance between rows, or transposed.

    cuBLAS is column-major: c^T += factor b^T a^T.
    """
    if isinstance(c, np.ndarray):  # in the simulator
        c += c.dtype.type(factor) * (a @ b)
        return
    from cupy.cuda import cublas, device

    rows, k, columns = *a.shape, b.shape[1]
    (of_b, ldb), (of_a, lda), (_, ldc) = _layout(b), _layout(a), _layout(c)
    factors = np.array([factor, 1], c.dtype)  # read before the call returns
    gemm = cublas.sgemm if c.dtype == np.float32 else cublas.dgemm
    gemm(
        *(device.get_cublas_handle(), of_b, of_a, columns, rows, k, factors[:1].ctypes.data),
        *(b.data.ptr, ldb, a.data.ptr, lda, factors[1:].ctypes.data, c.data.ptr, ldc),
    )


def _layout(matrix):
    """(1 if it is a transposed view else 0, the distance between the rows of what it is a view of)"""
    rows, columns = (stride // matrix.itemsize for stride in matrix.strides)
    if columns != 1 and matrix.shape[1] != 1:
        return 1, columns
    return 0, rows if matrix.shape[0] != 1 else matrix.shape[1]


def _fwd(mix, y, x, w, row_ptr, pieces, scales):
    mix(y, x, w, row_ptr, pieces, scales, False, True)


def _bwd(mix, mix_weights, dx, dw, dy, x, w, row_ptr, pieces, scales):
    if dx is not None:
        mix(dx, dy, w, row_ptr, pieces, scales, True, False)
    if dw is not None:
        mix_weights(dw, x, dy, row_ptr, pieces, scales)


def _fwd_tan(mix, ty, tx, tw, x, w, row_ptr, pieces, scales):
    if tx is None and tw is None:
        ty[...] = 0
    if tx is not None:
        mix(ty, tx, w, row_ptr, pieces, scales, False, True)
    if tw is not None:
        mix(ty, x, tw, row_ptr, pieces, scales, False, tx is None)


def _bwd_tan(mix, mix_weights, tdx, tdw, tdy, tx, tw, dy, x, w, row_ptr, pieces, scales):
    _bwd(mix, mix_weights, tdx, tdw, tdy, x, w, row_ptr, pieces, scales)
    if tdx is not None and tw is not None:
        mix(tdx, dy, tw, row_ptr, pieces, scales, True, False)
    if tdw is not None and tx is not None:
        mix_weights(tdw, tx, dy, row_ptr, pieces, scales)


dense_fwd_cpu, dense_fwd_cuda = partial(_fwd, _mix_cpu), partial(_fwd, _mix_cuda)
dense_bwd_cpu = partial(_bwd, _mix_cpu, _mix_weights_cpu)
dense_bwd_cuda = partial(_bwd, _mix_cuda, _mix_weights_cuda)
dense_fwd_tan_cpu, dense_fwd_tan_cuda = partial(_fwd_tan, _mix_cpu), partial(_fwd_tan, _mix_cuda)
dense_bwd_tan_cpu = partial(_bwd_tan, _mix_cpu, _mix_weights_cpu)
dense_bwd_tan_cuda = partial(_bwd_tan, _mix_cuda, _mix_weights_cuda)


# ---- add: plain array arithmetic. On a GPU a thread takes one number; 32 registers, 12 to 20 bytes, 1 to 2
# operations.


def add_fwd_cpu(y, a, b, col, count):
    """y = a, with b's first `count` columns added from column `col` on: how a self-connection joins."""
    y[...] = a
    y[..., col : col + count] += b[..., :count]


def add_bwd_cpu(da, db, dy, a, b, col, count):
    if da is not None:
        da += dy
    if db is not None:
        db[..., :count] += dy[..., col : col + count]


@gpu.kernel(lambda y, *_: y.size)
def _add_fwd_cuda(y, a, b, col, count):
    M = y.shape[1]
    for q in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        r, m = q // M, q % M
        y[r, m] = a[r, m] + b[r, m - col] if col <= m < col + count else a[r, m]


@gpu.kernel(lambda da, db, dy, *_: dy.size)
def _add_bwd_cuda(da, db, dy, col, count):
    M = dy.shape[1]
    for q in range(cuda.grid(1), dy.size, cuda.gridsize(1)):
        r, m = q // M, q % M
        da[r, m] += dy[r, m]
        if col <= m < col + count:
            db[r, m - col] += dy[r, m]


def add_fwd_cuda(y, a, b, col, count):
    _add_fwd_cuda(_rows(y), _rows(a), _rows(b), col, count)


def add_bwd_cuda(da, db, dy, a, b, col, count):
    if da is None or db is None:
        add_bwd_cpu(da, db, dy, a, b, col, count)
    else:
        _add_bwd_cuda(_rows(da), _rows(db), _rows(dy), col, count)


def _add_fwd_tan(fwd, ty, ta, tb, a, b, col, count):
    if ta is not None and tb is not None:
        fwd(ty, ta, tb, col, count)
        return
    ty[...] = 0 if ta is None else ta
    if tb is not None:
        ty[..., col : col + count] += tb[..., :count]


def _add_bwd_tan(bwd, tda, tdb, tdy, ta, tb, dy, a, b, col, count):
    bwd(tda, tdb, tdy, a, b, col, count)


add_fwd_tan_cpu, add_fwd_tan_cuda = partial(_add_fwd_tan, add_fwd_cpu), partial(_add_fwd_tan, add_fwd_cuda)
add_bwd_tan_cpu, add_bwd_tan_cuda = partial(_add_bwd_tan, add_bwd_cpu), partial(_add_bwd_tan, add_bwd_cuda)
