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
file sets SciPy's BLAS to one thread.
"""

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


def dense_fwd_cpu(y, x, w, row_ptr, blocks, scales):
    _mix(_rows(y), _rows(x), w, row_ptr, blocks, scales, False, True)


def dense_bwd_cpu(dx, dw, dy, x, w, row_ptr, blocks, scales):
    if dx is not None:
        _mix(_rows(dx), _rows(dy), w, row_ptr, blocks, scales, True, False)
    if dw is not None:
        _mix_weights(dw, _rows(x), _rows(dy), row_ptr, blocks, scales, _tiles(len(w), blocks))


def dense_fwd_tan_cpu(ty, tx, tw, x, w, row_ptr, blocks, scales):
    if tx is None and tw is None:
        ty[...] = 0
    if tx is not None:
        _mix(_rows(ty), _rows(tx), w, row_ptr, blocks, scales, False, True)
    if tw is not None:
        _mix(_rows(ty), _rows(x), tw, row_ptr, blocks, scales, False, tx is None)


def dense_bwd_tan_cpu(tdx, tdw, tdy, tx, tw, dy, x, w, row_ptr, blocks, scales):
    dense_bwd_cpu(tdx, tdw, tdy, x, w, row_ptr, blocks, scales)
    if tdx is not None and tw is not None:
        _mix(_rows(tdx), _rows(dy), tw, row_ptr, blocks, scales, True, False)
    if tdw is not None and tx is not None:
        _mix_weights(tdw, _rows(tx), _rows(dy), row_ptr, blocks, scales, _tiles(len(w), blocks))


def add_fwd_cpu(y, a, b, col, count):
    """y = a, with b's first `count` columns added from column `col` on: how a self-connection joins."""
    np.copyto(y, a)
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
