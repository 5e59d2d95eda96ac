"""Matrix products inside kernels for a CPU: by the BLAS that Numba itself uses, SciPy's.

Kernels run on threads of their own, so that BLAS must use one only: `with one_thread:` around what calls a
kernel, or calls NumPy where bits must not depend on the number of threads. It is a setting of the whole
process, put back once nobody is inside any more.
"""

import os
from threading import Lock

import scipy.linalg.cython_blas  # noqa: F401  (loads the library that is looked for below)
from numba.extending import overload
from numba.np.linalg import _BLAS
from threadpoolctl import ThreadpoolController

from .compile import inner

N, T = ord("n"), ord("t")  # a matrix as it is, or transposed


class _OneThread:
    _inside = 0

    def __init__(self) -> None:
        found = ThreadpoolController().lib_controllers  # SciPy's BLAS, and NumPy's where that is another one
        self._blas = [lib for lib in found if lib.user_api == "blas"]
        self._begin_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        """Also in a forked child, where nobody is inside any more, and nobody would open the lock."""
        if self._inside:
            self._put_back()
        self._lock, self._inside, self._before = Lock(), 0, []

    def _put_back(self) -> None:
        for lib, count in zip(self._blas, self._before, strict=True):
            lib.set_num_threads(count)

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [lib.get_num_threads() for lib in self._blas]
                for lib in self._blas:
                    lib.set_num_threads(1)
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._put_back()


one_thread = _OneThread()


def _blas_gemm(kind, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """Column-major BLAS product; only inside kernels."""
    raise NotImplementedError


@overload(_blas_gemm)
def _blas_gemm_typed(kind, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
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


@inner
def gemm(c, a, b, rows, k, cols, trans_a, trans_b, factors):
    """c += factors[0] op(a) op(b), row-major, c[rows, cols], sum over k.

    a, b and c are (array whose first element starts the matrix, row length): row-major products are BLAS's
    column-major ones with the factors exchanged.
    """
    _blas_gemm(
        0, trans_b, trans_a, cols, rows, k, factors[:1], b[0], b[1], a[0], a[1], factors[1:], c[0], c[1]
    )
