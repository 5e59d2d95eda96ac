"""Arrays that are used again, on the CPU and on a GPU."""

import math

import numpy as np

from eqpot.backend import array_module
from eqpot.kernels.simd import aligned, whole

LARGE = 1 << 20  # bytes


class Pool:
    """Arrays that are used again, since fresh memory costs a page fault every 4 kB.

    held: bytes of all its buffers, in use or idle.
    """

    def __init__(self, dtype: np.dtype, backend: str = "cpu"):
        self.dtype = np.dtype(dtype)
        self.empty = aligned if backend == "cpu" else array_module(backend).empty
        self.held = 0
        self._free: dict[int, list[np.ndarray]] = {}
        self._used: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by id: an array and its buffer

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array with undefined content, ours until `give` or `release`."""
        size = math.prod(shape)
        room = self._room(size)
        stack = self._free.get(room)
        if not stack and room * self.dtype.itemsize > LARGE:  # one that is up to a half larger does as well
            near = [r for r, idle in self._free.items() if idle and room < r <= 1.5 * room]
            stack = self._free[min(near)] if near else None
        buffer = stack.pop() if stack else self._made(room)
        array = buffer[:size].reshape(shape)
        self._used[id(array)] = array, buffer
        return array

    def full(self, shape: tuple[int, ...], value: float) -> np.ndarray:
        array = self.take(shape)
        array[...] = value
        return array

    def give(self, *arrays: np.ndarray | None) -> None:
        """Take back these arrays; what is None, or was never of the pool or is no more, is passed over."""
        for array in arrays:
            _, buffer = self._used.pop(id(array), (None, None))
            if buffer is not None:
                self._free.setdefault(buffer.size, []).append(buffer)

    def release(self) -> None:
        """Take back every array."""
        for _, buffer in self._used.values():
            self._free.setdefault(buffer.size, []).append(buffer)
        self._used.clear()

    def clear(self) -> None:
        """Let go of the idle buffers."""
        self.held -= self.dtype.itemsize * sum(room * len(stack) for room, stack in self._free.items())
        self._free.clear()

    def _room(self, size: int) -> int:
        """Numbers in the buffer of an array: a power of two, or where large a whole number of its eighths."""
        room = 1 << max(size - 1, 63).bit_length()
        if room * self.dtype.itemsize <= LARGE:
            return room
        return whole(size, room // 16)

    def _made(self, room: int) -> np.ndarray:
        try:
            buffer = self.empty((room,), self.dtype)
        except MemoryError:  # what is left of calls with other sizes goes first
            self.clear()
            buffer = self.empty((room,), self.dtype)
        self.held += buffer.nbytes
        return buffer


class GpuPool(Pool):
    """The same for a GPU, where each array that is zeroed costs a launch: the small ones of the last round
    lie side by side in this one, zeroed by one."""

    def __init__(self, dtype: np.dtype):
        super().__init__(dtype, "cuda")
        self._zeroed = self._none = self.empty((0,), self.dtype)
        self._wanted = self._given = 0

    def full(self, shape: tuple[int, ...], value: float) -> np.ndarray:
        size, start = math.prod(shape), self._given
        if value != 0 or size * self.dtype.itemsize > LARGE:
            return super().full(shape, value)
        if start == 0:
            if len(self._zeroed) < self._wanted:
                self._let_go()  # before the larger one is asked for
                self._zeroed = self._made(self._wanted)
            self._zeroed[: self._wanted] = 0
        self._given += whole(size, 32)
        if self._given > self._wanted:
            return super().full(shape, 0)
        return self._zeroed[start : start + size].reshape(shape)

    def release(self) -> None:
        super().release()
        self._wanted, self._given = self._given, 0

    def clear(self) -> None:
        super().clear()
        if self._given == 0:
            self._let_go()

    def _let_go(self) -> None:
        self.held -= self._zeroed.nbytes
        self._zeroed = self._none

    def arrays(self) -> list[np.ndarray]:
        """All its buffers."""
        used = [buffer for _, buffer in self._used.values()]
        return [self._zeroed, *used, *(buffer for stack in self._free.values() for buffer in stack)]
