"""What the commands `eqpot analyze ...` take."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from eqpot.commands.options import Finite
from eqpot.errors import UserError
from eqpot.files import check_output
from eqpot.printing import busy
from eqpot.structures.trajectory import EVERYTHING, after, check_trajectory, read_trajectory


class Frames(click.ParamType):
    """START:STOP:STEP as a slice."""

    name = "frames"

    def convert(self, value, param, ctx):
        parts = value.split(":")
        try:
            start, stop, step = (_within(int(part)) if part else None for part in (*parts, "")[:3])
        except ValueError:
            step = 0
        if not 2 <= len(parts) <= 3 or (step is not None and step < 1):
            self.fail(f"expected START:STOP or START:STOP:STEP, such as 100::5, found {value!r}", param, ctx)
        return slice(start, stop, step)


def _within(number: int) -> int:
    """The nearest number that islice takes."""
    return max(-sys.maxsize, min(number, sys.maxsize))


class Lags(click.ParamType):
    """START:STOP in ps, two numbers."""

    name = "lags"

    def convert(self, value, param, ctx):
        try:
            start, stop = map(float, value.split(":"))
        except ValueError:
            start = stop = np.nan
        if not 0 <= start < stop < np.inf:
            self.fail(f"expected START:STOP in ps, such as 2:10, found {value!r}", param, ctx)
        return start, stop


class Axes(click.ParamType):
    """Some of x, y and z."""

    name = "axes"

    def convert(self, value, param, ctx):
        if not value or len(set(value)) < len(value) or not set(value) <= set("xyz"):
            self.fail(f"expected some of x, y and z, such as xy, found {value!r}", param, ctx)
        return value


def _together(*options):
    def add(command):
        for option in reversed(options):
            command = option(command)
        return command

    return add


FARTHEST = 1000  # Å; nobody looks farther
POSITIVE = Finite(min=0, min_open=True)
LENGTH = Finite(min=0, min_open=True, max=FARTHEST)
frame_options = _together(
    click.option("--frames", type=Frames(), metavar="START:STOP:STEP", help="A slice of Python. [all]"),
    click.option("--skip", type=Finite(min=0), metavar="PS", help="Leave out the first PS ps."),
    click.option(
        "--frame-time",
        type=POSITIVE,
        metavar="FS",
        help="Between frames of the file, fs, where they do not hold the time as time_ps.",
    ),
)
rdf_options = _together(
    click.option(
        "--r-max", type=LENGTH, default=6.0, show_default=True, metavar="R", help="The farthest, Å."
    ),
    click.option(
        "--bin",
        "bin_width",
        type=POSITIVE,
        default=0.05,
        show_default=True,
        metavar="WIDTH",
        help="Of bins, at most, Å.",
    ),
    click.option(
        "--pair", "pairs", multiple=True, metavar="A-B", help="Elements; repeatable. [all and total]"
    ),
)


def angle_options(required: bool):
    """For `analyze.adf`."""
    return _together(
        click.option(
            "--triple", required=required, metavar="A-B-C", help="Elements, the vertex B in the middle."
        ),
        click.option(
            "--cutoff",
            required=required,
            metavar="R[,R]",
            help="Longest A-B and B-C, Å; the first minimum of their g(r) is a good one.",
        ),
        click.option(
            "--angle-bin",
            type=POSITIVE,
            default=2.0,
            show_default=True,
            metavar="WIDTH",
            help="Of bins, at most, °.",
        ),
        click.option("--sine", is_flag=True, help="Divide by sin θ: random directions then give 1."),
    )


def output_options(default: str):
    """For `outputs_of`."""
    return _together(
        click.option(
            *("-o", "--output"), default=default, show_default=True, metavar="PREFIX", help="Of the results."
        ),
        click.option("--overwrite", is_flag=True, help="Replace the results."),
    )


def outputs_of(prefix: str, overwrite: bool, *trajectories: str) -> tuple[Path, Path]:
    """PREFIX.csv and PREFIX.png. UserError where they may not or cannot be written, or what is to be read is
    not there: that is told first."""
    for trajectory in trajectories:
        check_trajectory(trajectory)
    path = Path(prefix)
    if not path.name:
        raise UserError(f"--output: expected a prefix of file names, found {prefix!r}")
    outputs = path.with_name(f"{path.name}.csv"), path.with_name(f"{path.name}.png")
    for output in outputs:
        check_output(output, overwrite, trajectories)
    return outputs


def _elements(option: str, text: str, example: str) -> tuple[str, ...]:
    """As many symbols as the example has, joined by "-"."""
    symbols = tuple(text.split("-"))
    if len(symbols) != len(example.split("-")) or not all(atomic_numbers.get(symbol) for symbol in symbols):
        raise UserError(f"{option}: expected element symbols as in {example}, found {text!r}")
    return symbols


def pairs_of(texts: Sequence[str]) -> list[tuple[str, ...]] | None:
    """None where no pair is named."""
    return [_elements("--pair", text, "O-H") for text in dict.fromkeys(texts)] or None


def triple_of(text: str, cutoff: str) -> tuple[tuple[str, ...], tuple[float, float]]:
    """Symbols, and how far their bonds reach, Å."""
    triple = _elements("--triple", text, "O-P-O")
    try:
        lengths = [float(part) for part in cutoff.split(",")]
    except ValueError:
        lengths = []
    if not 1 <= len(lengths) <= 2 or not all(0 < length <= FARTHEST for length in lengths):
        raise UserError(
            f"--cutoff: expected one length in Å or two joined by a comma, up to {FARTHEST}, found {cutoff!r}"
        )
    return triple, (lengths[0], lengths[-1])


def read(path: str, chosen: slice | None, skip: float | None, frame_time: float | None) -> list[Atoms]:
    """The frames that were asked for."""
    with busy(f"reading {path}"):
        frames = read_trajectory(path, chosen or EVERYTHING)
    if skip is None:
        return frames
    with named(path):
        return after(frames, skip, frame_time)


@contextmanager
def named(path: str) -> Iterator[None]:
    """An error begins with the file."""
    try:
        yield
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
