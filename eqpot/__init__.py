"""eqpot: equivariant interatomic potentials from hand-derived kernels."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["EqpotCalculator", "Potential"]

# Python started in a checkout finds this folder before an installed eqpot. Its other packages lie beside it.
if find_spec("eqpot.kernels") is None:
    __path__.append(str(Path(__file__).parents[1]))

# Imported when asked for: they bring Numba along.
MODULES = {"EqpotCalculator": "eqpot.calculator", "Potential": "eqpot.potential"}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module 'eqpot' has no attribute {name!r}")
