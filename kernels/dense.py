"""Dense mixing of channels: the self-interactions, the self-connection and the radial network are this
operator.

    y[R_g, y_col : y_col + m] += scale x[R_g, x_col : x_col + k] @ W_g[k, m]     for every group g and block

`x[..., K]`: all leading axes are rows, so a vector's three components share one matrix. Rows come in groups
(one group, or one per species): R_g = row_ptr[g] : row_ptr[g + 1]. `blocks[nb, 5]` = (x_col, k, y_col, m,
offset) place each matrix, which starts at `offset` in the flat weights w[g] (parity under O(3) makes the
mixing block-diagonal); `scales[nb]` are static factors such as 1 / sqrt(k). Columns that no block writes are
zero.

Backward: dx = scale dy W^T, dW = scale x^T dy. The product is bilinear, hence
fwd_tan: ty = scale (tx W + x tW); bwd_tan: tdx = scale (tdy W^T + dy tW^T), tdW = scale (x^T tdy + tx^T dy).

Matrix products go to the BLAS that Numba itself uses (SciPy's), on one thread each: threads share chunks of
rows, or tiles of dW, which fixes every sum's order whatever the number of threads. That is why importing this
file sets SciPy's BLAS to one thread. On a GPU they go to cuBLAS, one for each group and block, in plain
float32 (no TF32) or float64.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (loads the library that the next lines restrict)
from numba import prange
from numba.extending import overload
from numba.np.linalg import _BLAS
from threadpoolctl import ThreadpoolController

from .compile import inner, kernel

ROWS = 32  # rows per unit of parallel work
TILE = 32  # rows of dW per unit of parallel work

_blas = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
for _lib in [lib for lib in _blas if "scipy" in lib.filepath] or _blas:
    _lib.set_num_threads(1)


def _gemm(kind, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """Column-major BLAS product; only inside kernels."""
    raise NotImplementedError


@overload(_gemm)
def _gemm_typed(kind, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    xxgemm = _BLAS().numba_xxgemm(a.dtype)
    letter = ord("s") if a.dtype.bitwidth == 32 else ord("d")

    def call(kind, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        xxgemm(
            letter,
            trans_a,
            trans_b,
            m,
            n,
            k,
            alpha.ctypes,
            a.ctypes,
            lda,
            b.ctypes,
            ldb,
            beta.ctypes,
            c.ctypes,
            ldc,
        )

    return call


N, T = ord("n"), ord("t")


@inner
def _add_product(c, a, b, rows, k, cols, trans_a, trans_b, factors):
    """c += factors[0] op(a) op(b), row-major, c[rows, cols], sum over k.

    a, b and c are (array whose first element starts the block, row length): row-major products are BLAS's
    column-major ones with the factors exchanged.
    """
    _gemm(0, trans_b, trans_a, cols, rows, k, factors[:1], b[0], b[1], a[0], a[1], factors[1:], c[0], c[1])


@kernel
def _mix(y, x, w, row_ptr, blocks, scales, transpose, overwrite):
    """y += x W, or y += x W^T with the roles of a block's columns exchanged; rows[n, columns]."""
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
            for b in range(blocks.shape[0]):
                x_col, k, y_col, m, offset = blocks[b]
                factors[0] = scales[b]
                matrix = (w[g, offset:], m)
                if transpose:
                    _add_product(
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
                    _add_product(
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
def _mix_weights(dw, x, dy, row_ptr, blocks, scales, tiles):
    """dW += scale x^T dy; tiles[., 4] = (group, block, first row, number of rows) of dW."""
    for t in prange(tiles.shape[0]):
        g, b, first, rows = tiles[t]
        lo, hi = row_ptr[g], row_ptr[g + 1]
        if lo >= hi:
            continue
        x_col, k, y_col, m, offset = blocks[b]
        factors = np.ones(2, dw.dtype)
        factors[0] = scales[b]
        _add_product(
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


def _tiles(groups, blocks):
    """Cut every group's matrices into tiles of rows; kept by layout, of which a model has a few dozen."""
    key = (groups, blocks.tobytes())
    if key not in _TILES:
        rows = [
            (g, b, first, min(TILE, block[1] - first))
            for g in range(groups)
            for b, block in enumerate(blocks)
            for first in range(0, block[1], TILE)
        ]
        _TILES[key] = np.array(rows, np.int64).reshape(-1, 4)
    return _TILES[key]


def _rows(x):
    return x.reshape(-1, x.shape[-1])


def _mix_cpu(y, x, w, row_ptr, blocks, scales, transpose, overwrite):
    _mix(_rows(y), _rows(x), w, row_ptr, blocks, scales, transpose, overwrite)


def _mix_weights_cpu(dw, x, dy, row_ptr, blocks, scales):
    _mix_weights(dw, _rows(x), _rows(dy), row_ptr, blocks, scales, _tiles(len(dw), blocks))


def _mix_cuda(y, x, w, row_ptr, blocks, scales, transpose, overwrite):
    """`row_ptr`, `blocks` and `scales` are on the host: they say which products to ask for."""
    y, x = _rows(y), _rows(x)
    if overwrite:
        y[...] = 0
    for g, (lo, hi) in enumerate(pairwise(row_ptr.tolist())):
        for (x_col, k, y_col, m, offset), scale in zip(blocks.tolist(), scales.tolist(), strict=True):
            W = w[g, offset : offset + k * m].reshape(k, m)
            if lo < hi and transpose:
                add_matmul(y[lo:hi, x_col : x_col + k], x[lo:hi, y_col : y_col + m], W.T, scale)
            elif lo < hi:
                add_matmul(y[lo:hi, y_col : y_col + m], x[lo:hi, x_col : x_col + k], W, scale)


def _mix_weights_cuda(dw, x, dy, row_ptr, blocks, scales):
    x, dy = _rows(x), _rows(dy)
    for g, (lo, hi) in enumerate(pairwise(row_ptr.tolist())):
        for (x_col, k, y_col, m, offset), scale in zip(blocks.tolist(), scales.tolist(), strict=True):
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


def _fwd(mix, y, x, w, row_ptr, blocks, scales):
    mix(y, x, w, row_ptr, blocks, scales, False, True)


def _bwd(mix, mix_weights, dx, dw, dy, x, w, row_ptr, blocks, scales):
    if dx is not None:
        mix(dx, dy, w, row_ptr, blocks, scales, True, False)
    if dw is not None:
        mix_weights(dw, x, dy, row_ptr, blocks, scales)


def _fwd_tan(mix, ty, tx, tw, x, w, row_ptr, blocks, scales):
    if tx is None and tw is None:
        ty[...] = 0
    if tx is not None:
        mix(ty, tx, w, row_ptr, blocks, scales, False, True)
    if tw is not None:
        mix(ty, x, tw, row_ptr, blocks, scales, False, tx is None)


def _bwd_tan(mix, mix_weights, tdx, tdw, tdy, tx, tw, dy, x, w, row_ptr, blocks, scales):
    _bwd(mix, mix_weights, tdx, tdw, tdy, x, w, row_ptr, blocks, scales)
    if tdx is not None and tw is not None:
        mix(tdx, dy, tw, row_ptr, blocks, scales, True, False)
    if tdw is not None and tx is not None:
        mix_weights(tdw, tx, dy, row_ptr, blocks, scales)


dense_fwd_cpu, dense_fwd_cuda = partial(_fwd, _mix_cpu), partial(_fwd, _mix_cuda)
dense_bwd_cpu = partial(_bwd, _mix_cpu, _mix_weights_cpu)
dense_bwd_cuda = partial(_bwd, _mix_cuda, _mix_weights_cuda)
dense_fwd_tan_cpu, dense_fwd_tan_cuda = partial(_fwd_tan, _mix_cpu), partial(_fwd_tan, _mix_cuda)
dense_bwd_tan_cpu = partial(_bwd_tan, _mix_cpu, _mix_weights_cpu)
dense_bwd_tan_cuda = partial(_bwd_tan, _mix_cuda, _mix_weights_cuda)


# ---- add: plain array arithmetic, the same on both


def add_fwd_cpu(y, a, b, col, count):
    """y = a, with b's first `count` columns added from column `col` on: how a self-connection joins."""
    y[...] = a
    y[..., col : col + count] += b[..., :count]


def add_bwd_cpu(da, db, dy, a, b, col, count):
    if da is not None:
        da += dy
    if db is not None:
        db[..., :count] += dy[..., col : col + count]


def add_fwd_tan_cpu(ty, ta, tb, a, b, col, count):
    ty[...] = 0 if ta is None else ta
    if tb is not None:
        ty[..., col : col + count] += tb[..., :count]


def add_bwd_tan_cpu(tda, tdb, tdy, ta, tb, dy, a, b, col, count):
    add_bwd_cpu(tda, tdb, tdy, a, b, col, count)


add_fwd_cuda, add_bwd_cuda = add_fwd_cpu, add_bwd_cpu
add_fwd_tan_cuda, add_bwd_tan_cuda = add_fwd_tan_cpu, add_bwd_tan_cpu
