"""Values of frames as arrays of a wanted kind and shape, or one line that names what was found."""

from typing import Any

import numpy as np
from ase.data import atomic_numbers

from eqpot.data_tools.text import short
from eqpot.errors import UserError
from eqpot.structures.data import (
    MAX_NUMBER,
)


def as_numbers(name: str, k: int, value: Any) -> np.ndarray:
    """Atomic numbers [n] from numbers or symbols."""
    numbers = np.asarray(value)
    if numbers.dtype.kind in "USO":
        symbols = [str(symbol) for symbol in numbers.reshape(-1)]
        for atom, symbol in enumerate(symbols):
            if symbol not in atomic_numbers:
                hint = f"; is it {symbol.capitalize()}?" if symbol.capitalize() in atomic_numbers else ""
                hint = hint or (
                    "; a column of atomic numbers is Z:I:1 in Properties" if symbol.isdigit() else ""
                )
                raise UserError(
                    f"{name}: frame {k}, atom {atom}: expected a chemical symbol such as Cu, "
                    f"found {short(symbol)}{hint}"
                )
        numbers = np.array([atomic_numbers[symbol] for symbol in symbols])
    integral = numbers.dtype.kind in "iuf" and numbers.ndim == 1 and len(numbers)
    if not integral or (numbers != np.round(numbers)).any():
        raise UserError(f"{name}: frame {k}, numbers: expected a list of integers, found {short(value)}")
    bad = numbers[(numbers < 1) | (numbers > MAX_NUMBER)]
    if len(bad):
        raise UserError(
            f"{name}: frame {k}, numbers: expected atomic numbers 1 to {MAX_NUMBER}, found {bad[0]:g}"
        )
    return numbers


def as_floats(name: str, k: int, array: str, value: Any, shapes: set[tuple[int, ...]]) -> np.ndarray:
    """float64, in one of the shapes."""
    try:
        values = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise UserError(f"{name}: frame {k}, {array}: expected numbers, found {short(value)}") from error
    if values.dtype.kind not in "iuf":
        raise UserError(f"{name}: frame {k}, {array}: expected numbers, found {short(value)}")
    if values.shape not in shapes:
        expected = " or ".join(str(shape) for shape in sorted(shapes))
        raise UserError(f"{name}: frame {k}, {array}: expected shape {expected}, found {values.shape}")
    return values.astype(np.float64)


def as_tensor(name: str, k: int, array: str, value) -> tuple[np.ndarray, bool]:
    """A symmetric 3x3 tensor from nine numbers, or from six in ASE's Voigt order xx, yy, zz, yz, xz, xy.

    Nine may be symmetric but for noise: then also True. UserError where they are not, as with one half zero.
    """
    values = as_floats(name, k, array, value, {(3, 3), (9,), (6,)})
    if values.shape == (6,):
        return values[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3), False
    values = values.reshape(3, 3)
    size, uneven = abs(values).max(), abs(values - values.T)
    upper, lower = values[np.triu_indices(3, 1)], values[np.tril_indices(3, -1)]
    half = any(not a.any() and abs(b).max() > 1e-6 * size for a, b in ((upper, lower), (lower, upper)))
    if half or uneven.max() > 0.1 * size:
        i, j = np.unravel_index(uneven.argmax(), (3, 3))
        what = (
            f"zeros on one side of its diagonal and {values[i, j]:.4g} and {values[j, i]:.4g} at"
            if half
            else (f"{values[i, j]:.4g} and {values[j, i]:.4g} at")
        )
        raise UserError(
            f"{name}: frame {k}, {array}: expected nine numbers of a symmetric tensor, found {what} "
            f"{'xyz'[i]}{'xyz'[j]} and {'xyz'[j]}{'xyz'[i]}"
        )
    return (values + values.T) / 2, bool(uneven.max() > 1e-3 * size)
