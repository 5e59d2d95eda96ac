"""Elementary functions as plain arithmetic: loops over them become vector code, which calls to the C library
prevent. For kernels; called from Python, as the simulator of CUDA does, they are NumPy's. Results are in the
precision of the argument, with an absolute error of about two units in the last place of the largest number
involved. Taylor series throughout.
"""

import math

import numpy as np
from numba import types
from numba.extending import intrinsic, overload


def _polynomial(terms, real):
    """Horner's rule for coefficients from the constant on, as one chain of products and sums."""
    scalar = types.float32 if real is np.float32 else types.float64

    @intrinsic
    def evaluate(typingctx, x):
        def code(context, builder, signature, args):
            highest, *rest = (context.get_constant(scalar, float(c)) for c in reversed(terms))
            for c in rest:
                product = builder.fmul(highest, args[0], flags=("contract",))
                highest = builder.fadd(product, c, flags=("contract",))
            return highest

        return scalar(scalar), code

    return evaluate


def _overload(function):
    # Not reassociated: x - n high - n low would become x - n (high + low), and lose what it is written for.
    return overload(function, jit_options={"fastmath": {"contract"}, "forceinline": True})


def exp(x):
    """e^x = 2^n e^y with |y| <= ln 2 / 2, the power of two written into the exponent's bits.

    x is clipped to where e^x is a normal number.
    """
    with np.errstate(over="ignore"):
        return np.exp(x)


def expm1(x):
    """e^x - 1 = 2^n (e^y - 1) + (2^n - 1), without cancellation near zero; clipped as in `exp`."""
    return np.expm1(x)


def _exponential(x, minus_one):
    if x.bitwidth == 32:
        real, bits, bias, shift, low, high = np.float32, np.int32, 127, 1 << 23, -87.0, 88.0
        ln2_high, ln2_low, degree = 0.693359375, -2.12194440e-4, 7
    else:
        real, bits, bias, shift, low, high = np.float64, np.int64, 1023, 1 << 52, -708.0, 709.0
        ln2_high, ln2_low, degree = 0.693145751953125, 1.42860682030941723212e-6, 13
    series = _polynomial([1 / math.factorial(k) for k in range(minus_one, degree + 1)], real)
    low, high, log2e, half, one = real(low), real(high), real(1 / math.log(2)), real(0.5), real(1)
    ln2_high, ln2_low = real(ln2_high), real(ln2_low)

    def impl(x):
        x = min(max(x, low), high)
        n = np.floor(x * log2e + half)
        y = x - n * ln2_high - n * ln2_low
        power = bits((bits(n) + bits(bias)) * bits(shift)).view(real)
        if minus_one:
            return power * (series(y) * y) + (power - one)
        return series(y) * power

    return impl


@_overload(exp)
def _exp(x):
    return _exponential(x, 0)


@_overload(expm1)
def _expm1(x):
    return _exponential(x, 1)


def log1p(x):
    """ln(1 + x) for -1/2 <= x <= 1: 2 artanh z with z = x / (2 + x), |z| <= 1/3."""
    return np.log1p(x)


@_overload(log1p)
def _log1p(x):
    real, degree = (np.float32, 7) if x.bitwidth == 32 else (np.float64, 16)
    series = _polynomial([2 / (2 * k + 1) for k in range(degree + 1)], real)
    two = real(2)

    def impl(x):
        z = x / (two + x)
        return series(z * z) * z

    return impl


def sincos(x):
    """sin x, cos x for |x| up to some hundreds: x = n pi + y with |y| <= pi / 2."""
    return np.sin(x), np.cos(x)


@_overload(sincos)
def _sincos(x):
    if x.bitwidth == 32:
        real, terms, pi_high, pi_low = np.float32, 6, 3.140625, 9.67653589793e-4
    else:
        real, terms, pi_high, pi_low = np.float64, 12, 3.1415926218032837, 3.178650954705639e-08
    sign = [(-1) ** k for k in range(terms + 1)]
    sin_series = _polynomial([s / math.factorial(2 * k + 1) for k, s in enumerate(sign)], real)
    cos_series = _polynomial([s / math.factorial(2 * k) for k, s in enumerate(sign)], real)
    pi_high, pi_low, over_pi = real(pi_high), real(pi_low), real(1 / math.pi)
    half, one, two = real(0.5), real(1), real(2)

    def impl(x):
        n = np.floor(x * over_pi + half)
        y = x - n * pi_high - n * pi_low
        turned = one - two * (n - two * np.floor(n * half))
        return turned * sin_series(y * y) * y, turned * cos_series(y * y)

    return impl
