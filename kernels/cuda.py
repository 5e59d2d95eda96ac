"""How every CUDA kernel is compiled and launched, and what kernels share: one decorator, one grid, one sum.

A kernel walks its work with the grid's stride,

    for k in range(cuda.grid(1), count, cuda.gridsize(1)):

so that any grid gives the same numbers. In every file of kernels `cuda` stands for `numba.cuda`, which is
imported when the first kernel is launched: it takes longer than a small force call, and a machine without a
GPU needs none of it. Device code may call the functions of single numbers that CPU kernels call; `exp` and
its like become those of CUDA's own library.

Under `NUMBA_ENABLE_CUDASIM=1` kernels run in Numba's simulator, on NumPy arrays: the same code as Python, a
Python thread for each thread of a very small grid. It checks arithmetic and bounds, not types nor speed.

All kernels run on CuPy's current stream, one after the other.
"""

import math
import os
import sys
from collections.abc import Callable
from functools import cache, cached_property
from types import FunctionType
from typing import Any

import numpy as np
from numba import config

from . import elementary, simd
from .compile import CACHE

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    sys.setswitchinterval(1e-5)  # its threads wait for each other by asking again and again

# Threads that add up one number together: on a card those of a warp.
LANES = 2 if SIMULATED else 32
THREADS = LANES if SIMULATED else 128
MOST_BLOCKS = 2 if SIMULATED else 1 << 20

# Most rows of the arrays in a `Recording`: no operator calls cuBLAS for so few.
RECORDED_ROWS = 1 << 16

cuda = None


class Device:
    """A function that CUDA kernels call, on arrays too; compiled into them."""

    def __init__(self, function: FunctionType):
        self.function = function


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
        function = for_cuda(self.function)
        if SIMULATED:
            return _numba_cuda().jit(function)
        cuda, settings = _numba_cuda(), _settings()
        users, settings.CACHE_DIR = settings.CACHE_DIR, CACHE
        try:
            return cuda.jit(cache=CACHE is not None and os.access(CACHE, os.W_OK))(function)
        finally:
            settings.CACHE_DIR = users

    def __call__(self, *arguments: object) -> None:
        count = self.count(*arguments)
        if count == 0:
            return
        blocks = min(-(-count // THREADS), MOST_BLOCKS)
        if SIMULATED:
            self.compiled[blocks, THREADS](
                *(_Array(a) if isinstance(a, np.ndarray) else a for a in arguments)
            )
            return
        for a in arguments:
            if isinstance(a, np.ndarray):
                raise TypeError(f"{self.__name__}: expected arrays on the GPU, found one of NumPy {a.shape}")
        self.compiled[blocks, THREADS, _stream()](*arguments)


@cache
def _numba_cuda():
    from numba import cuda

    settings = _settings()
    # CuPy and these kernels share one stream: waiting for it before each launch would gain nothing.
    settings.CUDA_ARRAY_INTERFACE_SYNC = 0
    settings.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small structures have small grids
    return cuda


def _settings():
    """Numba's settings that hold for CUDA: the package numba-cuda has its own."""
    try:
        from numba.cuda.core import config as settings
    except ImportError:
        return config
    return settings


def for_cuda(function: FunctionType) -> FunctionType:
    """The same code among names as CUDA code sees them."""
    names = _names(function.__globals__)
    found = FunctionType(function.__code__, names, function.__name__, None, function.__closure__)
    found.__qualname__ = function.__qualname__
    return found


_NAMES: dict[str, dict[str, Any]] = {}
_DEVICE_FUNCTIONS: dict[FunctionType, Callable] = {}


def _names(module: dict[str, Any]) -> dict[str, Any]:
    """A module's names, with device functions in the place of those of the CPU."""
    if module["__name__"] not in _NAMES:
        # `min` and `max` are in no module; what a module has under these names goes before.
        names = _NAMES[module["__name__"]] = {"min": min, "max": max, **module}
        replaced = {} if SIMULATED else {id(function): other for function, other in LIBRARY.items()}
        for name, value in list(names.items()):
            value = replaced.get(id(value), value)
            function = value.function if isinstance(value, Device) else getattr(value, "py_func", None)
            names[name] = value if function is None else _device_function(function)
        names["cuda"] = _Simulated() if SIMULATED else _numba_cuda()
    return _NAMES[module["__name__"]]


def _device_function(function: FunctionType) -> Callable:
    if function not in _DEVICE_FUNCTIONS:
        seen = for_cuda(function)
        _DEVICE_FUNCTIONS[function] = seen if SIMULATED else _numba_cuda().jit(device=True)(seen)
    return _DEVICE_FUNCTIONS[function]


def _sincos(x):
    return math.sin(x), math.cos(x)


def _smaller(a, b):
    return b if b < a else a


def _larger(a, b):
    return b if b > a else a


# What stands in device code for functions that compile for a CPU only; min and max among them, which Numba
# has as functions of any number of arguments.
LIBRARY = {
    elementary.exp: math.exp,
    elementary.expm1: math.expm1,
    elementary.log1p: math.log1p,
    elementary.sincos: Device(_sincos),
    min: Device(_smaller),
    max: Device(_larger),
    **{function: Device(function) for function in (simd.read, simd.write, simd.fill)},
}


def _stream():
    import cupy

    return _numba_cuda().external_stream(cupy.cuda.get_current_stream().ptr)


class _Array:
    """What a simulated kernel needs of an array; Numba's own stand-in takes ten times as long."""

    __slots__ = ("array", "shape", "size", "dtype")

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.size, self.dtype = array, array.shape, array.size, array.dtype

    def __getitem__(self, index: object) -> object:
        return self.array[index]

    def __setitem__(self, index: object, value: object) -> None:
        self.array[index] = value


class _Simulated:
    """`cuda` in the simulator: of the launch that runs now, for functions of whatever module."""

    def __getattr__(self, name: str) -> object:
        return getattr(sys.modules["numba.cuda.simulator.kernel"]._get_kernel_context(), name)


_CONSTANTS: dict[tuple, object] = {}
MOST_CONSTANTS = 4096  # more than any model has; where batches differ, their layouts come and go


def constant(array: np.ndarray) -> object:
    """A small array of the host on the device, sent once."""
    if SIMULATED:
        return array
    import cupy

    key = (array.shape, array.dtype.str, array.tobytes())
    found = _CONSTANTS.pop(key, None)
    if found is None:
        found = cupy.asarray(array)
        if len(_CONSTANTS) >= MOST_CONSTANTS:
            del _CONSTANTS[next(iter(_CONSTANTS))]  # the one that was asked for longest ago
    _CONSTANTS[key] = found
    return found


class Recording:
    """A computation on the GPU, recorded as one CUDA graph: from then on a single launch.

    `compute` must do the same with arrays in the same places each time, without waiting for the GPU; what it
    returns is written anew by each call. CuPy's calls of cuBLAS cannot be recorded. In the simulator, it is
    simply called.

    held(): arrays that outlive a call and that others may replace; the recording keeps those it works on.
    """

    def __init__(self, compute: Callable[[], Any], held: Callable[[], list]):
        self._compute = compute
        if SIMULATED:
            return
        import cupy

        # Memory that is the recording's own: a graph writes where its arrays lay when it was made.
        self._memory, self._stream = cupy.cuda.MemoryPool(), _recording_stream()
        with cupy.cuda.using_allocator(self._memory.malloc), self._stream:
            compute()  # compiles what is new, and leaves memory to be taken again
            self._stream.synchronize()
            self._stream.begin_capture()
            try:
                self._result = compute()
            finally:
                self._graph = self._stream.end_capture()
        self._held = [*_CONSTANTS.values(), *held()]

    def __call__(self) -> Any:
        if SIMULATED:
            return self._compute()
        self._graph.launch(self._stream)
        return self._result


@cache
def _recording_stream():
    """One for all recordings. It waits for CuPy's default stream, and that one for it."""
    import cupy

    return cupy.cuda.Stream()


# ---- sums over the threads of a warp, always in one order


def _warp_sum(x):
    for k in (16, 8, 4, 2, 1):
        x += cuda.shfl_xor_sync(0xFFFFFFFF, x, k)
    return x


# The simulator runs one block at a time, here one warp; its own shared arrays are made twice where two
# threads ask for the first time at once.
_HELD = np.zeros(LANES)


def _warp_sum_simulated(x):
    cuda.syncthreads()
    _HELD[cuda.threadIdx.x] = x
    cuda.syncthreads()
    return sum(_HELD.tolist())


# x added up over the LANES threads of a warp, in each of them; all must call it.
warp_sum = Device(_warp_sum_simulated if SIMULATED else _warp_sum)
