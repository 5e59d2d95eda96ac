"""Where numbers are worked on: the CPU, with NumPy's arrays, or a GPU, with CuPy's.

Under Numba's simulator of CUDA the arrays of "cuda" are NumPy's, too.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np

from eqpot.errors import UserError
from eqpot.kernels.cuda import SIMULATED

DEVICES = ("auto", "cpu", "cuda")


def resolve(device: str) -> str:
    """The backend, "cpu" or "cuda", for a user's device; "auto" takes a GPU where one can be used.

    UserError at another word, and at "cuda" where no GPU can be used, with the reason.
    """
    if device not in DEVICES:
        raise UserError(f"device: expected one of {', '.join(DEVICES)}, found {device!r}")
    if device == "cpu":
        return "cpu"
    reason = obstacle()
    if device == "cuda" and reason:
        raise UserError(f"device: cuda: {reason}")
    return "cpu" if reason else "cuda"


def obstacle() -> str:
    """Why no GPU can be used, in a line; empty where one can."""
    if SIMULATED:
        return ""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed; on a machine with an NVIDIA GPU it comes with the extra cuda"
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as e:
        needed, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()
        if 0 < driver < needed:
            return f"the driver is for CUDA {_version(driver)}, CuPy needs {_version(needed)}"
        return f"no GPU was found ({str(e).splitlines()[0]})"
    return "" if count else "no GPU was found"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def card() -> dict[str, str]:
    """Name of the GPU, the CUDA version of its driver, the version of CuPy."""
    if SIMULATED:
        return {"gpu": "Numba's simulator"}
    import cupy

    runtime = cupy.cuda.runtime
    return {
        "gpu": runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode(),
        "driver": _version(runtime.driverGetVersion()),
        "cupy": cupy.__version__,
    }


def array_module(backend: str) -> Any:
    """NumPy, or CuPy for the GPU."""
    if backend != "cuda" or SIMULATED:
        return np
    import cupy

    return cupy


def module_of(array: Any) -> Any:
    """NumPy or CuPy, whose array it is."""
    return array_module("cpu" if isinstance(array, np.ndarray) else "cuda")


def to_device(array: np.ndarray, backend: str) -> Any:
    """The array where the backend works; itself if it is there."""
    return array_module(backend).asarray(array)


def to_host(array: Any) -> np.ndarray:
    """The array as NumPy's; itself if it is."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def send(there: Any, here: np.ndarray) -> None:
    """Copy an array of the host into one on the device."""
    if isinstance(there, np.ndarray):
        there[...] = here
    else:
        there.set(here)


def free_memory() -> float:
    """Bytes that the GPU at work still has for arrays; without end in the simulator."""
    if SIMULATED:
        return math.inf
    import cupy

    pool = cupy.get_default_memory_pool()
    free = cupy.cuda.Device().mem_info[0] + pool.free_bytes()
    limit = pool.get_limit()  # 0: nobody has set one
    return min(free, limit - pool.used_bytes()) if limit else free


# Sizes and places by which the host decides what to launch.
HOST = {"species_ptr", "order", "walk"}


def moved(batch: Any, backend: str) -> Any:
    """A Batch with the arrays that kernels read where the backend works; itself if they are there."""
    if batch.backend == backend:
        return batch
    move = partial(to_device, backend=backend) if backend == "cuda" else to_host
    arrays = {
        field.name: move(getattr(batch, field.name))
        for field in dataclasses.fields(batch)
        if field.name not in HOST | {"backend"}
    }
    return dataclasses.replace(batch, **arrays, backend=backend)
