"""Numbers on the command line."""

import math
import sys

import click


class Finite(click.FloatRange):
    """A number within limits, neither infinite nor NaN."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, found {value}", param, ctx)
        return number


class Whole(click.types.IntParamType):
    """A whole number that fits in 64 bits, from `low` on."""

    def __init__(self, low: int = -sys.maxsize):
        self.min, self.max = low, sys.maxsize

    def convert(self, value, param, ctx):
        number = click.INT.convert(value, param, ctx)
        if not self.min <= number <= self.max:
            self.fail(f"expected an integer from {self.min} to {self.max}, found {number}", param, ctx)
        return number
