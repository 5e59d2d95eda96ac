"""Every operator of the table on every backend: its four functions against the reference and each other.

The reference in turn stands on differences, the adjoint identity, and e3nn's values (test_golden.py).
"""

import numpy as np
import pytest
from operator_cases import (
    CASES,
    TYPICAL,
    USABLE,
    Walks,
    check_all,
    inner,
    moved,
    size,
)
from tolerances import DIFFERENCE, IDENTITY, OPERATOR, check_close, derivative

from eqpot.kernels.cuda import SIMULATED
from eqpot.network.ops import SIGNATURES, operators

over_backends = pytest.mark.parametrize("backend", USABLE)
over_cases = pytest.mark.parametrize("case", CASES, ids=str)
# In the simulator all cases only for what the others follow from: that they equal the reference.
over_enough_cases = pytest.mark.parametrize("case", TYPICAL if SIMULATED else CASES, ids=str)
over_typical_cases = pytest.mark.parametrize("case", TYPICAL, ids=str)


@pytest.mark.parametrize("walk", ["fwd", "bwd", "fwd_tan", "bwd_tan"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", [b for b in USABLE if b != "ref"])
@over_cases
def test_equals_reference(backend, case, dtype, walk):
    dy, tx, tdy = case.directions()
    args = {"fwd": (), "bwd": (dy,), "fwd_tan": (tx,), "bwd_tan": (tdy, tx, dy)}[walk]
    got = getattr(Walks(backend, case, dtype), walk)(*args)
    expected = getattr(Walks("ref", case), walk)(*args)
    signature = SIGNATURES[case.operator]
    names = signature.outputs if walk.startswith("fwd") else signature.inputs
    check_all(got, expected, OPERATOR[dtype], names)


@over_backends
@over_enough_cases
def test_adjoint_identity(backend, case):
    """<dy, fwd_tan(tx)> = <bwd(dy), tx>: the two are transposes of each other, to round-off."""
    dy, tx, _ = case.directions()
    walks = Walks(backend, case)
    ty, dx = walks.fwd_tan(tx), walks.bwd(dy)
    check_close(inner(dy, ty), inner(dx, tx), IDENTITY, scale=max(size(dy, ty), size(dx, tx)))


@over_backends
@over_enough_cases
def test_second_derivative_is_symmetric(backend, case):
    """<u, H t> = <t, H u> for H = d2 <dy, y> / dx dx, the part of bwd_tan that follows the tangent."""
    dy, t, _ = case.directions()
    u = case.random("u", [x.shape for x in case.inputs])
    still = [np.zeros(shape) for shape in case.shapes]
    walks = Walks(backend, case)
    ht, hu = walks.bwd_tan(still, t, dy), walks.bwd_tan(still, u, dy)
    check_close(inner(u, ht), inner(t, hu), IDENTITY, scale=max(size(u, ht), size(t, hu)))


@over_backends
@over_enough_cases
def test_tangents_are_differences(backend, case):
    """fwd_tan is the derivative of fwd along tx; bwd_tan that of bwd along (tdy, tx)."""
    dy, tx, tdy = case.directions()
    walks, signature = Walks(backend, case), SIGNATURES[case.operator]
    step = 1e-7 if case.label == "small_vectors" else 1e-4

    for k, name in enumerate(signature.outputs):
        expected = derivative(lambda h, k=k: walks.fwd(moved(case.inputs, tx, h))[k], step)
        check_close(walks.fwd_tan(tx)[k], expected, DIFFERENCE, what=f"t{name}")
    for k, name in enumerate(signature.inputs):
        expected = derivative(lambda h, k=k: walks.bwd(moved(dy, tdy, h), moved(case.inputs, tx, h))[k], step)
        check_close(walks.bwd_tan(tdy, tx, dy)[k], expected, DIFFERENCE, what=f"td{name}")


@over_backends
@over_typical_cases
def test_cotangents_accumulate(backend, case):
    dy, tx, tdy = case.directions()
    walks, names = Walks(backend, case), SIGNATURES[case.operator].inputs
    check_all(walks.bwd(dy, start=2.0), [2.0 + x for x in walks.bwd(dy)], IDENTITY, names)
    expected = [2.0 + x for x in walks.bwd_tan(tdy, tx, dy)]
    check_all(walks.bwd_tan(tdy, tx, dy, start=2.0), expected, IDENTITY, names)


@over_backends
@over_typical_cases
def test_none_is_unwanted_or_zero(backend, case):
    """Each argument alone: a cotangent that is None is left out, a tangent that is None is zero."""
    dy, tx, tdy = case.directions()
    walks, names = Walks(backend, case), SIGNATURES[case.operator].inputs
    dx = walks.bwd(dy)
    for k, name in enumerate(names):
        check_close(walks.bwd(dy, only=k)[k], dx[k], IDENTITY, what=f"d{name} alone")

        only = [t if i == k else None for i, t in enumerate(tx)]
        filled = [t if i == k else np.zeros(t.shape) for i, t in enumerate(tx)]
        check_all(walks.fwd_tan(only), walks.fwd_tan(filled), IDENTITY, SIGNATURES[case.operator].outputs)

        got = walks.bwd_tan(tdy, only, dy, only=k)[k]
        check_close(got, walks.bwd_tan(tdy, filled, dy)[k], IDENTITY, what=f"td{name} alone")


@pytest.mark.parametrize("backend", [b for b in USABLE if b != "ref"])
@over_typical_cases
def test_same_bits_again(backend, case):
    dy, tx, tdy = case.directions()
    walks = Walks(backend, case)
    first, second = walks.bwd_tan(tdy, tx, dy), walks.bwd_tan(tdy, tx, dy)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_table_is_complete():
    assert {case.operator for case in CASES} == {case.operator for case in TYPICAL} == set(SIGNATURES)


def test_missing_function_names_itself():
    with pytest.raises(ValueError, match="fortran"):
        operators("fortran")
