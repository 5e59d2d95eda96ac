"""The comparison itself: it must not let a wrong number pass."""

import numpy as np
import pytest
from tolerances import check_close, derivative, relative_error

EXPECTED = np.array([[-3.0, 0.5, 1e-3], [-2.0, 1e-9, -0.1]])


def test_equal_arrays_pass():
    check_close(EXPECTED.copy(), EXPECTED, 0.0)
    check_close(np.zeros((0, 3)), np.zeros((0, 3)), 0.0)
    check_close(np.zeros(3), np.zeros(3), 0.0)


def spoil_one(value):
    def spoil(x):
        x = x.copy()
        x[1, 0] = value(x[1, 0])
        return x

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: 1.001 * x,
        lambda x: -x,
        lambda x: x.T,
        lambda x: x[:, :2],
        lambda x: x + 1e-4,
        spoil_one(lambda value: 1.001 * value),
        spoil_one(lambda value: -value),
        spoil_one(lambda value: np.nan),
        spoil_one(lambda value: np.inf),
    ],
    ids=["factor", "sign", "transposed", "cut", "offset", "one_factor", "one_sign", "one_nan", "one_inf"],
)
@pytest.mark.parametrize("of", [1.0, -1.0])
def test_spoiled_array_fails(spoil, of):
    """At the loosest tolerance in use; and for mostly negative numbers as for positive ones."""
    with pytest.raises(AssertionError):
        check_close(spoil(of * EXPECTED), of * EXPECTED, 2e-5)


def test_nan_on_both_sides_fails():
    with pytest.raises(AssertionError):
        check_close(np.array([np.nan]), np.array([np.nan]), 1.0)


def test_nonzero_against_zero_fails():
    with pytest.raises(AssertionError):
        check_close(np.array([1e-3]), np.array([0.0]), 1e-6)


def test_scale_of_its_own():
    assert relative_error(1e-9, 0.0, scale=10.0) == pytest.approx(1e-10)


def test_derivative():
    assert derivative(lambda h: np.exp(1 + h)) == pytest.approx(np.e, rel=1e-10)
