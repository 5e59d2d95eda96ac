"""eqpot: equivariant interatomic potentials from hand-derived kernels."""

from importlib import import_module
from typing import Any

__all__ = ["EqpotCalculator", "Potential"]

# Imported when asked for: they bring Numba along.
MODULES = {"EqpotCalculator": "eqpot.calculator", "Potential": "eqpot.potential"}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module 'eqpot' has no attribute {name!r}")
