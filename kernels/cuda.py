"""How every CUDA kernel is compiled and launched, and what kernels share: one decorator, one grid, one sum.

A kernel walks its work with the grid's stride,

    for k in range(cuda.grid(1), count, cuda.gridsize(1)):

so that any grid gives the same numbers. In every file of kernels `cuda` is `numba.cuda`, and stands there
from a kernel's first launch on: importing it takes longer than a small force call, and a machine without a
GPU needs none of it.

Under `NUMBA_ENABLE_CUDASIM=1` kernels run in Numba's simulator, on NumPy arrays: the same code as Python, a
Python thread for each thread of a very small grid. It checks arithmetic and bounds, not types nor speed.

All kernels run on CuPy's current stream, one after the other.
"""

import sys
from collections.abc import Callable
from functools import cached_property
from types import FunctionType

import numpy as np
from numba import config

from .compile import CACHE

SIMULATED = bool(config.ENABLE_CUDASIM)

# Threads that add up one number together: on a card those of a warp.
LANES = 2 if SIMULATED else 32
THREADS = LANES if SIMULATED else 128
MOST_BLOCKS = 2 if SIMULATED else 1 << 20

cuda = None


class Device:
    """A function that CUDA kernels call, on arrays too; compiled into them."""

    def __init__(self, function: FunctionType):
        self.function = function

    @cached_property
    def compiled(self) -> Callable:
        """As numba.cuda takes it from a kernel's globals; in the simulator the function itself."""
        _prepare(self.function)
        return self.function if SIMULATED else _numba_cuda().jit(device=True)(self.function)


def kernel(count: Callable[..., int]) -> Callable[[FunctionType], "Kernel"]:
    """Decorate a CUDA kernel; count(*arguments) is how many threads a launch is best made with."""
    return lambda function: Kernel(function, count)


class Kernel:
    """A CUDA kernel, launched by a call; not at all where there is no work.

    TypeError where an array is not on the device: Numba would copy it there and back at each launch.
    """

    def __init__(self, function: FunctionType, count: Callable[..., int]):
        self.function, self.count = function, count
        self.__doc__, self.__name__ = function.__doc__, function.__name__

    @cached_property
    def compiled(self) -> Callable:
        """The dispatcher; compiles for each combination of types at its first launch."""
        _prepare(self.function)
        numba_cuda = _numba_cuda()
        if SIMULATED:
            return numba_cuda.jit(self.function)
        users, config.CACHE_DIR = config.CACHE_DIR, CACHE
        try:
            return numba_cuda.jit(cache=True)(self.function)
        finally:
            config.CACHE_DIR = users

    def __call__(self, *arguments: object) -> None:
        count = self.count(*arguments)
        if count == 0:
            return
        blocks = min(-(-count // THREADS), MOST_BLOCKS)
        if SIMULATED:
            self.compiled[blocks, THREADS](*map(_shared, arguments))
            return
        for a in arguments:
            if isinstance(a, np.ndarray):
                raise TypeError(f"{self.__name__}: expected arrays on the GPU, found one of NumPy {a.shape}")
        self.compiled[blocks, THREADS, _stream()](*arguments)


def _numba_cuda():
    from numba import cuda

    # CuPy and these kernels share one stream: waiting for it before each launch would gain nothing.
    config.CUDA_ARRAY_INTERFACE_SYNC = 0
    return cuda


def _prepare(function: FunctionType) -> None:
    """Put numba.cuda, and device functions as it takes them, into what a function sees."""
    names = function.__globals__
    if SIMULATED:
        names["cuda"] = _Simulated()
    else:
        names["cuda"] = _numba_cuda()
    for name, value in list(names.items()):
        if isinstance(value, Device):
            names[name] = value.function  # ends a recursion
            names[name] = value.compiled


def _stream():
    import cupy

    return _numba_cuda().external_stream(cupy.cuda.get_current_stream().ptr)


def _shared(argument: object) -> object:
    """An argument as the simulator takes it without a copy."""
    if not isinstance(argument, np.ndarray):
        return argument
    return sys.modules["numba.cuda.simulator.cudadrv.devicearray"].FakeCUDAArray(argument)


class _Simulated:
    """`cuda` in the simulator: of the launch that runs now, for functions of whatever module."""

    def __getattr__(self, name: str) -> object:
        return getattr(sys.modules["numba.cuda.simulator.kernel"]._get_kernel_context(), name)


_CONSTANTS: dict[tuple, object] = {}


def constant(array: np.ndarray) -> object:
    """A small array of the host on the device, sent once; there are a handful for a model."""
    if SIMULATED:
        return array
    import cupy

    key = (array.shape, array.dtype.str, array.tobytes())
    if key not in _CONSTANTS:
        _CONSTANTS[key] = cupy.asarray(array)
    return _CONSTANTS[key]


# ---- sums over the threads of a warp, always in one order


def _warp_sum(x):
    for k in (16, 8, 4, 2, 1):
        x += cuda.shfl_xor_sync(0xFFFFFFFF, x, k)
    return x


def _warp_sum_simulated(x):
    held = cuda.shared.array(LANES, np.float64)
    cuda.syncthreads()
    held[cuda.threadIdx.x] = x
    cuda.syncthreads()
    return sum(held[lane] for lane in range(LANES))


# x added up over the LANES threads of a warp, in each of them; all must call it.
warp_sum = Device(_warp_sum_simulated if SIMULATED else _warp_sum)
