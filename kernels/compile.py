"""How every CPU kernel is compiled: two decorators, one set of flags.

`fastmath` lets the compiler contract a*b + c and reorder sums, so that loops over channels become SIMD; it does
not let it assume that NaN and infinity are absent, since a diverging training run must stay visible.
"""

from numba import njit

FAST = {"contract", "reassoc", "nsz", "arcp"}

# A loop over a fixed partition of the work, shared among threads. The partition depends on shapes alone, so
# results are the same bits for any number of threads.
kernel = njit(parallel=True, nogil=True, cache=True, fastmath=FAST, error_model="numpy")

# What a kernel calls inside its loop. LLVM vectorises a loop over channels only if it can check that what is
# written overlaps nothing that is read, and gives up beyond a handful of arrays: so each loop writes one row.
inner = njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
