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


class Whole(click.IntRange):
    """A whole number that fits in 64 bits, from `low` on."""

    name = "integer"

    def __init__(self, low: int = -sys.maxsize):
        super().__init__(low, sys.maxsize)

    def _describe_range(self) -> str:
        return "" if self.min == -sys.maxsize else f"x>={self.min}"
