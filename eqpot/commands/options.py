"""What several commands take."""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import click

from eqpot.errors import UserError
from eqpot.settings import Table


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


device_option = click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if one can be used.",
)
frame_index = click.option(
    "--index",
    type=Whole(),
    default=-1,
    show_default=True,
    metavar="N",
    help="Frame of STRUCTURE, from 0, or -1, -2, ... from the end.",
)


def settings_options(table: type[Table]) -> Callable:
    """Adds to a command an option for each setting of a table, None where not given."""

    def add(command: Callable) -> Callable:
        for field in reversed(dataclasses.fields(table)):
            comment, choices = field.metadata["comment"], field.metadata["choices"]
            kind = click.Choice(choices) if choices else {int: Whole(), str: str}.get(field.type, float)
            option = {"is_flag": True, "default": None} if field.type is bool else {"type": kind}
            shown = "" if field.default in (None, "") or field.type is bool else f" [{field.default}]"
            name = f"--{field.name.replace('_', '-')}"
            command = click.option(name, help=f"{comment[0].upper()}{comment[1:]}.{shown}", **option)(command)
        return command

    return add


def one_of(resume: bool, overwrite: bool) -> None:
    """UserError at both."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: expected one of them, found both")


def frame(structure: str, index: int, potential) -> tuple[Any, str]:
    """One frame of a file as ase.Atoms, such as the potential takes, and what to call it."""
    from eqpot.structures.trajectory import read_frame

    atoms, name = read_frame(structure, index), structure if index == -1 else f"{structure}, frame {index}"
    potential.check(atoms, name)
    return atoms, name


def check_index(structure: str | None, index: int) -> None:
    """UsageError at the frame of no structure."""
    if structure is None and index != -1:
        raise click.UsageError("--index: expected a STRUCTURE, too, found none")
