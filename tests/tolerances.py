"""How close is close enough: one table of tolerances, and the one comparison of all numerical tests."""

import numpy as np

# Largest error relative to the largest expected number.
OPERATOR = {"float64": 1e-12, "float32": 1e-5}  # a backend against the reference in float64
IDENTITY = 1e-12  # adjoint identity, symmetry of second derivatives: nothing but round-off
DIFFERENCE = 1e-7  # against central differences
GOLDEN = 1e-12  # against e3nn's values in float64
MODEL = {"float64": 1e-12, "float32": 2e-5}  # network against the reference network
SYMMETRY = {"float64": 1e-10, "float32": 2e-5}  # rotation, translation, permutation, mirror
VIOLATION = 1e-6  # what a mirror must change at least under so3
LOSS_GRADIENT = 1e-6  # gradient of the whole loss against central differences


def relative_error(got, expected, scale=None) -> float:
    """Largest |got - expected| over the largest |expected| (or `scale`); infinite for NaN, wrong shape."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape or not (np.all(np.isfinite(got)) and np.all(np.isfinite(expected))):
        return np.inf
    if got.size == 0:
        return 0.0
    if scale is None:
        scale = np.max(np.abs(expected)) or 1.0
    return float(np.max(np.abs(got - expected)) / scale)


def check_close(got, expected, tolerance: float, scale=None, what: str = "") -> None:
    """Fail unless `relative_error` is at most the tolerance."""
    error = relative_error(got, expected, scale)
    assert error <= tolerance, (
        f"{what}: relative error {error:.3g} exceeds {tolerance:.3g}, "
        f"shapes {np.shape(got)} and {np.shape(expected)}"
    )


def derivative(f, step: float = 1e-4):
    """Central difference of f at 0, of fourth order in the step; f returns an array or a number."""
    inner, outer = f(step) - f(-step), f(2 * step) - f(-2 * step)
    return (8 * inner - outer) / (12 * step)
