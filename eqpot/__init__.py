"""eqpot: equivariant interatomic potentials from hand-derived kernels."""

from typing import Any

__all__ = ["Potential"]


def __getattr__(name: str) -> Any:
    if name == "Potential":  # imported when asked for: it brings Numba along
        from eqpot.potential import Potential

        return Potential
    raise AttributeError(f"module 'eqpot' has no attribute {name!r}")
