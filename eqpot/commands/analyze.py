"""The commands `eqpot analyze ...`: trajectories in; tables, csv files and pictures out."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from ase import Atoms

from eqpot import analyze as analysis
from eqpot import diffusion
from eqpot.commands.analyze_options import (
    Axes,
    Lags,
    angle_options,
    frame_options,
    named,
    output_options,
    outputs_of,
    pairs_of,
    rdf_options,
    read,
    triple_of,
)
from eqpot.commands.options import Whole
from eqpot.errors import UserError
from eqpot.files import replacing
from eqpot.printing import PlainTable, busy, show
from eqpot.words import counted, say

LAYERED = 0.2  # of the fastest direction; where atoms are slower in another, it may be closed
MOST_PANELS = 24  # of a picture
SHELL = ("peak, Å", "g(r)", "minimum, Å", "neighbours up to the minimum")
WORDS = {"", "pair", "angle", "element", SHELL[-1]}  # columns of them


@click.group()
def analyze() -> None:
    """Distances, angles and diffusion in trajectories."""


@analyze.command()
@click.argument("trajectory", metavar="TRAJECTORY")
@rdf_options
@frame_options
@output_options("rdf")
def rdf(trajectory, r_max, bin_width, pairs, frames, skip, frame_time, output, overwrite) -> None:
    """Radial distribution functions of a periodic TRAJECTORY.

    TRAJECTORY is any file that ASE reads, or a data set. An ideal gas gives g(r) = 1: of N like atoms each
    has N - 1 others around it. Distances beyond half the cell count periodic images. The table tells the
    first peak, the minimum after it and the mean number of neighbours up to there. PREFIX.csv has g(r) and
    the number of neighbours within r, PREFIX.png shows g(r).
    """
    pairs = pairs_of(pairs)
    outputs = outputs_of(output, overwrite, trajectory)
    atoms = read(trajectory, frames, skip, frame_time)
    found = _rdf(trajectory, atoms, r_max, bin_width, pairs)
    _write_rdf({trajectory: found}, outputs)
    _show([_about(trajectory, atoms)], ("pair", *SHELL), [(pair, *_shell(found, pair)) for pair in found.g])
    _tell(outputs)


@analyze.command()
@click.argument("trajectory", metavar="TRAJECTORY")
@angle_options(required=True)
@frame_options
@output_options("adf")
def adf(trajectory, triple, cutoff, angle_bin, sine, frames, skip, frame_time, output, overwrite) -> None:
    """Distribution of the angles A-B-C in TRAJECTORY, molecules or periodic.

    TRAJECTORY is any file that ASE reads, or a data set. O-P-O is the angle at P between two O; every two
    neighbours of a vertex make one angle. The area under the curve, 0 to 180 degrees, is 1. PREFIX.csv has
    the curve as it is and divided by sin θ, PREFIX.png shows one of them.
    """
    symbols, cutoffs = triple_of(triple, cutoff)
    outputs = outputs_of(output, overwrite, trajectory)
    atoms = read(trajectory, frames, skip, frame_time)
    found = _adf(trajectory, atoms, symbols, cutoffs, angle_bin)
    _write_adf({trajectory: found}, triple, sine, outputs)
    curve = found.curve(sine)
    rows = [(f"{found.angle[k]:.1f}", f"{curve[k]:.3g}") for k in found.peaks(sine)]
    _show(
        [
            _about(trajectory, atoms),
            f"at each {symbols[1]} {found.per_vertex:.3g} {triple}, "
            f"mean {found.mean:.1f}°, standard deviation {found.std:.1f}°",
        ],
        ("peak, °", _angle_unit(sine)),
        rows,
    )
    _tell(outputs)


@analyze.command()
@click.argument("trajectories", nargs=-1, required=True, metavar="TRAJECTORY...")
@click.option("--element", "elements", multiple=True, metavar="A", help="Repeatable. [all elements]")
@click.option(
    "--fit", type=Lags(), metavar="START:STOP", help="Lags of the straight line, ps. [10 to 50 % of a block]"
)
@click.option(
    "--blocks", type=Whole(1), metavar="N", help="Of time, for the errors. [5; 1 of each of several runs]"
)
@click.option(
    "--axes",
    type=Axes(),
    metavar="xyz",
    help="Directions that count, such as xy. [all; the periodic ones of a slab or a wire]",
)
@click.option("--unwrapped", is_flag=True, help="Positions never were wrapped into the cell.")
@frame_options
@output_options("msd")
def msd(
    trajectories, elements, fit, blocks, axes, unwrapped, frames, skip, frame_time, output, overwrite
) -> None:
    """Mean square displacement and diffusivity in TRAJECTORY.

    TRAJECTORY is any file that ASE reads, its frames at equal times apart. Atoms are followed across
    periodic boundaries, from each frame to the nearest image in the next, and the motion of the centre of
    mass is taken off. D = slope / 2d in d directions, not corrected for the size of the cell; ± is the
    standard error, from blocks of time, or, of several trajectories, equally long, from these runs. A block
    is as long as the longest lag. PREFIX.csv has the mean square displacement, also along x, y and z by
    themselves, as D has in the table; PREFIX.png shows it.
    """
    from eqpot.plots import displacement

    outputs = outputs_of(output, overwrite, *trajectories)
    several = len(trajectories) > 1
    blocks = blocks or (1 if several else 5)
    runs, about = {}, []
    for trajectory in trajectories:
        if trajectory in runs:
            raise UserError(f"{trajectory}: expected several runs, found one named twice")
        atoms = read(trajectory, frames, skip, frame_time)
        with named(trajectory):
            runs[trajectory] = diffusion.msd(atoms, frame_time, elements, fit, blocks, unwrapped, axes)
        about.append(_about(trajectory, atoms))
    found = diffusion.mean_of_runs(runs) if several else runs[trajectories[0]]
    columns = {"lag (ps)": found.lag}
    for symbol in found.msd:
        columns[f"{symbol} (Å²)"] = found.msd[symbol]
        columns[f"{symbol} standard error (Å²)"] = found.error[symbol]
    for symbol, parts in found.along.items():
        columns |= {f"{symbol} {axis} (Å²)": part for axis, part in zip("xyz", parts, strict=True)}
    _write_csv(outputs[0], columns)
    displacement(found, outputs[1])
    _show(
        [
            *about[:-1],
            f"{about[-1]}, {found.lag[1]:g} ps apart",
            f"line fitted to lags of {found.fit[0]:g} to {found.fit[1]:g} ps, error from "
            + (counted(len(runs), "run") if several else counted(blocks, "block")),
            f"D = slope / {2 * found.dimensions}, along {found.axes}",
        ],
        ("element", "D, 1e-5 cm²/s", "±", "MSD ~ t to the power", "along x", "y", "z"),
        [
            (
                symbol,
                *(
                    f"{x:.3g}" if math.isfinite(x) else ""  # with one block there is no error
                    for x in (1e5 * d.value, 1e5 * d.error, d.exponent, *(1e5 * x for x in d.along))
                ),
            )
            for symbol, d in found.diffusivity.items()
        ],
    )
    pbc = atoms[0].pbc
    if not pbc.any():
        say("note: not periodic: motion within a molecule is no diffusion")
    elif axes is None and not pbc.all():
        say(f"note: periodic in {counted(int(pbc.sum()), 'direction')}, which alone count; see --axes")
    elif axes is None and any(min(d.along) < LAYERED * max(d.along) for d in found.diffusivity.values()):
        say("note: motion differs with direction; --axes chooses those in which atoms diffuse")
    if any(not 0.8 < d.exponent < 1.2 for d in found.diffusivity.values()):
        say("note: it is diffusion where the power is 1; --fit chooses other lags")
    _tell(outputs)


@analyze.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@rdf_options
@angle_options(required=False)
@frame_options
@output_options("compare")
def compare(
    a,
    b,
    r_max,
    bin_width,
    pairs,
    triple,
    cutoff,
    angle_bin,
    sine,
    frames,
    skip,
    frame_time,
    output,
    overwrite,
) -> None:
    """Distributions of two periodic trajectories A and B in one picture.

    As `rdf` and, where a triple is given, as `adf`: PREFIX_rdf.csv and .png, PREFIX_adf.csv and .png.
    """
    if (triple is None) != (cutoff is None) or (sine and triple is None):
        raise click.UsageError("angles need both --triple and --cutoff")
    pairs = pairs_of(pairs)
    symbols, cutoffs = (None, None) if triple is None else triple_of(triple, cutoff)
    radial, angular = (outputs_of(f"{output}_{kind}", overwrite, a, b) for kind in ("rdf", "adf"))
    if a == b:
        raise UserError(f"{b}: expected two trajectories, found the same one twice")
    atoms = {name: read(name, frames, skip, frame_time) for name in (a, b)}
    rdfs = {name: _rdf(name, atoms[name], r_max, bin_width, pairs) for name in (a, b)}
    if rdfs[a].g.keys() != rdfs[b].g.keys():
        raise UserError(
            f"{b}: expected the pairs of {a} ({' '.join(rdfs[a].g)}), found {' '.join(rdfs[b].g)}; "
            "choose some with --pair"
        )
    adfs = {}
    if symbols:
        adfs = {name: _adf(name, atoms[name], symbols, cutoffs, angle_bin) for name in (a, b)}
    names = {"A": a, "B": b}
    about = [f"{letter}: {_about(name, atoms[name])}" for letter, name in names.items()]
    _write_rdf(rdfs, radial)
    _show(
        about,
        ("pair", "", *SHELL),
        [(pair, x, *_shell(rdfs[name], pair)) for pair in rdfs[a].g for x, name in names.items()],
    )
    if adfs:
        _write_adf(adfs, triple, sine, angular)
        rows = []
        for x, found in zip(names, adfs.values(), strict=True):
            curve = found.curve(sine)
            top = curve.argmax()
            cells = (found.per_vertex, found.mean, found.std, found.angle[top], curve[top])
            rows.append((triple, x, *(f"{cell:.4g}" for cell in cells)))
        heading = (f"at each {symbols[1]}", "mean, °", "deviation, °", "highest peak, °")
        _show([], ("angle", "", *heading, _angle_unit(sine)), rows)
    _tell(radial + angular if adfs else radial)


def _rdf(path: str, frames: list[Atoms], r_max: float, bin_width: float, pairs) -> analysis.Rdf:
    elements = len(set().union(*(atoms.numbers.tolist() for atoms in frames)))
    panels = len(pairs) if pairs else elements * (elements + 1) // 2 + 1
    with named(path), busy("counting pairs"):
        if panels > MOST_PANELS:
            raise UserError(
                f"--pair: expected at most {MOST_PANELS} pairs to draw, found {panels}; choose some"
            )
        found = analysis.rdf(frames, r_max, bin_width, pairs)
        if not any(g.any() for g in found.g.values()):
            wanted = " and ".join(found.g) if pairs else "of atoms"
            raise UserError(f"--r-max: expected pairs {wanted}, found none within {r_max:g} Å")
        return found


def _adf(path: str, frames: list[Atoms], triple, cutoffs, bin_width: float) -> analysis.Adf:
    with named(path), busy("counting angles"):
        return analysis.adf(frames, triple, cutoffs, bin_width)


def _write_csv(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"{value:.8g}" for value in row] for row in zip(*columns.values(), strict=True))


def _write_rdf(found: Mapping[str, analysis.Rdf], outputs: tuple[Path, Path]) -> None:
    """Of one trajectory, or of several, whose columns then have their letters."""
    from eqpot.plots import distributions

    x = next(iter(found.values())).r
    columns = {"r (Å)": x}
    for letter, rdf in zip(_letters(found), found.values(), strict=True):
        columns |= {f"g {pair}{letter}": values for pair, values in rdf.g.items()}
        columns |= {f"{name} within r{letter}": values for name, values in rdf.around.items()}
    _write_csv(outputs[0], columns)
    curves = {name: rdf.g for name, rdf in found.items()}
    distributions(x, curves, ("r, Å", "g(r)"), outputs[1], level=1)


def _write_adf(
    found: Mapping[str, analysis.Adf], triple: str, sine: bool, outputs: tuple[Path, Path]
) -> None:
    from eqpot.plots import distributions

    x = next(iter(found.values())).angle
    columns = {"angle (degrees)": x}
    for letter, adf in zip(_letters(found), found.values(), strict=True):
        columns |= {f"{triple} ({_angle_unit(each)}){letter}": adf.curve(each) for each in (False, True)}
    _write_csv(outputs[0], columns)
    curves = {name: {triple: adf.curve(sine)} for name, adf in found.items()}
    labels = "angle, degrees", "relative to random directions" if sine else "per degree"
    distributions(x, curves, labels, outputs[1], level=1 if sine else None)


def _letters(found: Mapping) -> tuple[str, ...]:
    return ("",) if len(found) == 1 else (" A", " B")


def _angle_unit(sine: bool) -> str:
    return "over random" if sine else "per degree"


def _shell(found: analysis.Rdf, pair: str) -> tuple[str, ...]:
    """Cells of SHELL."""
    shell = found.shell(pair)
    if shell is None:
        return ("-",) * len(SHELL)
    around = ", ".join(f"{count:.3g} {name}" for name, count in shell.neighbours.items())
    return f"{shell.peak:.3f}", f"{shell.height:.3g}", f"{shell.minimum:.3f}", around


def _about(path: str, frames: list[Atoms]) -> str:
    same = len({len(a) for a in frames}) == 1
    atoms = counted(len(frames[0]), "atom") if same else "different numbers of atoms"
    return f"{path}: {counted(len(frames), 'frame')}, {atoms}"


def _show(about: Sequence[str], heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Lines, then a table with words on its left and numbers on its right."""
    say(*about)
    table = PlainTable()
    for column in heading:
        table.add_column(column, justify="left" if column in WORDS else "right")
    for row in rows:
        table.add_row(*row)
    show(table)


def _tell(outputs: Sequence[Path]) -> None:
    say(*(f"wrote {output}" for output in outputs))
