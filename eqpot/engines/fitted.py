"""What every way to compute takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eqpot.network.model import Model
from eqpot.network.params import Params
from eqpot.network.pool import GpuPool, Pool

if TYPE_CHECKING:
    from eqpot.network.zbl import ZBL


@dataclass(eq=False)
class Fitted:
    """A network with its weights, the constants of its elements, and the memory to compute in.

    scale, shift: float64 [Z], eV; zbl: the repulsion of nuclei, or None; backend: where to compute. The
    arrays are the potential's own.
    """

    model: Model
    params: Params
    scale: np.ndarray
    shift: np.ndarray
    zbl: ZBL | None
    backend: str

    def __post_init__(self) -> None:
        self.dtype = np.dtype(self.params.flat.dtype)
        self.pool = GpuPool(self.dtype) if self.backend == "cuda" else Pool(self.dtype, self.backend)
        self._engines: dict[Callable, Any] = {}
        self._gradients = threading.local()
        self.gradient()  # a recording on a GPU must not begin by making it

    def engine(self, make: Callable[[Fitted], Any], anew: bool = False) -> Any:
        """`make(self)`, made once, or anew."""
        if anew or make not in self._engines:
            self._engines[make] = make(self)
        return self._engines[make]

    def gradient(self) -> np.ndarray:
        """The thread's buffer for a gradient by the weights, laid out as params.flat."""
        if not hasattr(self._gradients, "flat"):
            self._gradients.flat = self.params.flat * 0
        return self._gradients.flat
