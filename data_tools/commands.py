"""The commands `eqpot data ...`: arguments in, tables out; the other modules do the work."""

import math
from pathlib import Path

import click
import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress
from rich.text import Text

from eqpot.commands.options import Finite, Whole
from eqpot.data_tools.convert import Conversion
from eqpot.data_tools.convert import convert as convert_sources
from eqpot.data_tools.info import Info, Statistics, describe
from eqpot.data_tools.recipe import recipe
from eqpot.data_tools.recipe import recipes as all_recipes
from eqpot.data_tools.sample import sample as make_sample
from eqpot.data_tools.sources import SPELLINGS
from eqpot.data_tools.split import METHODS, PARTS, Part
from eqpot.data_tools.split import split as split_file
from eqpot.data_tools.units import ENERGY_UNITS, LENGTH_UNITS, PRESSURE_UNITS
from eqpot.printing import PlainTable
from eqpot.structures.data import LABELS, Dataset, read_dataset
from eqpot.words import counted, plain

ROWS = 20  # of a table that could be as long as the data


@click.group()
def data() -> None:
    """Convert, describe, split or make a data set; recipes for published ones."""


def _key_options(command):
    for name in reversed((*SPELLINGS, "group")):
        where = "in an npz" if name in ("positions", "numbers", "cell", "pbc") else "in the sources"
        command = click.option(f"--{name}-key", metavar="NAME", help=f"Name of {name} {where}.")(command)
    return command


@data.command()
@click.argument("files", nargs=-1, metavar="SRC... OUT.h5")
@click.option("--energy-unit", metavar="|".join(ENERGY_UNITS), help="Of the sources. [eV; MD17: kcal/mol]")
@click.option("--length-unit", metavar="|".join(LENGTH_UNITS), help="Of the sources. [Ang]")
@click.option("--force-unit", metavar="ENERGY/LENGTH", help="Such as Hartree/Bohr. [of the two above]")
@click.option(
    "--stress-unit",
    metavar="|".join((*PRESSURE_UNITS, "ENERGY/LENGTH^3")),
    help="Such as kbar. [energy/length^3; a virial is always in that of energy]",
)
@_key_options
@click.option("--type-map", metavar="EL,EL,...", help="Element of each DeePMD type, without type_map.raw.")
@click.option(
    "--allow-missing",
    "--allow-missing-labels",
    "allow_missing",
    multiple=True,
    type=click.Choice(LABELS),
    help="A label that frames may lack; repeatable.",
)
@click.option("--level-of-theory", metavar="TEXT", help="Kept in the file.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5.")
def convert(
    files,
    energy_unit,
    length_unit,
    force_unit,
    stress_unit,
    type_map,
    allow_missing,
    level_of_theory,
    overwrite,
    **keys,
):
    """Convert SRC... into the data set file OUT.h5, in eV and Å.

    A SRC is anything ASE reads (extxyz first), an npz (MD17, sGDML, rMD17, or the usual names), a
    folder of DeePMD systems, or a data set file. Forces are in energy/length, stress in energy/length^3 and
    positive under tension, a virial is -stress times volume; six components are in the order xx yy zz yz xz
    xy, which is not VASP's (xx yy zz xy yz zx). Energy and forces are required of all frames, stress of all
    periodic ones or none. Labels are found by plain names or those of a reference (REF_energy); between two
    that differ, --energy-key and its like decide.
    """
    if len(files) < 2:
        raise click.UsageError(
            "convert needs at least one source and the file to write: eqpot data convert SRC... OUT.h5"
        )
    *sources, out = files
    result = convert_sources(
        sources,
        out,
        energy_unit=energy_unit,
        length_unit=length_unit,
        force_unit=force_unit,
        stress_unit=stress_unit,
        keys={name.removesuffix("_key"): key for name, key in keys.items() if key is not None},
        type_map=type_map.split(",") if type_map else None,
        allow_missing=allow_missing,
        attrs={"level_of_theory": level_of_theory} if level_of_theory else None,
        overwrite=overwrite,
    )
    _print_conversion(result, out)


@data.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--cutoff", type=Finite(max=50), default=5.0, show_default=True, metavar="R", help="Of neighbours, Å."
)
@click.option("--all", "everything", is_flag=True, help=f"Every row of a table, not the first {ROWS}.")
def info(file, cutoff, everything):
    """Composition, label statistics, shortest distances and neighbours of a data set FILE."""
    dataset = read_dataset(file)
    _print_info(dataset, describe(dataset, cutoff), None if everything else ROWS)


class _Amount(click.ParamType):
    name = "amount"

    def convert(self, value, param, ctx):
        if isinstance(value, int | float):
            return value
        try:
            return int(value)
        except ValueError:
            pass
        try:
            return float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            self.fail(
                f"expected a number of frames or a fraction such as 0.8 or 80%, found {value!r}", param, ctx
            )


@data.command()
@click.argument("file", metavar="FILE")
@click.option("--train", type=_Amount(), metavar="N", help="Frames (450) or fraction (0.9, 90%). [0.8]")
@click.option("--valid", type=_Amount(), metavar="N", help="Likewise. [0.1]")
@click.option(
    "--test", type=_Amount(), metavar="N", help="Likewise. [0.1] Given some, the others are not written."
)
@click.option("--seed", type=Whole(0), default=0, show_default=True, metavar="N")
@click.option("--method", type=click.Choice(METHODS), default="uniform", show_default=True)
@click.option(
    "--fraction",
    type=Finite(0, 1),
    default=0.3,
    show_default=True,
    metavar="F",
    help="With shortest: how much of training is frames of the shortest interatomic distances.",
)
@click.option("-o", "--output", metavar="PREFIX", help="Write PREFIX_train.h5 ... [FILE without its ending]")
@click.option("--overwrite", is_flag=True, help="Replace the files.")
def split(file, train, valid, test, seed, method, fraction, output, overwrite):
    """Split a data set FILE into FILE_train.h5, FILE_valid.h5 and FILE_test.h5."""
    amounts = dict(zip(PARTS, (train, valid, test), strict=True))
    parts = split_file(
        file, **amounts, seed=seed, method=method, fraction=fraction, prefix=output, overwrite=overwrite
    )
    _print_parts(parts, f"{file}: {method}, seed {seed}")


@data.command()
@click.argument("out", metavar="OUT.h5")
@click.option("--frames", type=Whole(1), default=1000, show_default=True, metavar="N")
@click.option("--temperature", type=Finite(min=0), default=500.0, show_default=True, metavar="K")
@click.option(
    "--interval", type=Finite(min=0), default=50.0, show_default=True, metavar="FS", help="Between frames."
)
@click.option(
    "--equilibrate", type=Finite(min=0), default=2000.0, show_default=True, metavar="FS", help="Before them."
)
@click.option("--seed", type=Whole(0), default=0, show_default=True, metavar="N")
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5.")
def sample(out, frames, temperature, interval, equilibrate, seed, overwrite):
    """Make the demonstration set: ethanol, Langevin dynamics on GFN2-xTB. Needs tblite (extra: demo)."""
    console = _console()
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=frames)
        dataset = make_sample(
            out,
            frames,
            temperature=temperature,
            interval=interval,
            equilibrate=equilibrate,
            seed=seed,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _say(console, f"{out}: {_contents(dataset)}, {_size(out)}")


@data.command()
@click.argument("name", required=False)
def recipes(name):
    """List the fits of the NequIP paper, or print one: settings for `eqpot fit --config`.

    `eqpot data recipes lips > lips.toml` gives a file whose head tells where the data are, every command from
    them to the errors, and what the paper reached.
    """
    if name is not None:
        click.echo(recipe(name).text, nl=False)
        return
    for one in all_recipes().values():
        click.echo(f"{one.name:<10} {one.system}")
        click.echo(f"{'':<10} cutoff {one.config.model.cutoff:g} Å, data: {one.data}")
    click.echo("print one: eqpot data recipes NAME > NAME.toml")


# ---------------------------------------------------------------- tables


def _console() -> Console:
    width = None if Console().is_terminal else 140
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _say(console: Console, text: str) -> None:
    console.print(plain(text), soft_wrap=True)


def _table(title: str, *columns: str, left: int = 1) -> PlainTable:
    """A table whose first ``left`` columns hold words, the others numbers."""
    table = PlainTable(title)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k < left else "right", overflow="fold", no_wrap=k >= left)
    return table


def _print_conversion(result: Conversion, out: str) -> None:
    console = _console()
    for source in result.sources[:ROWS]:
        part = source.dataset
        facts = (
            f"{counted(len(part), 'frame')} of {_range(part.sizes)} ({_elements(part)})",
            f"labels: {_labels(part)}",
            f"{source.kind} in {source.energy_unit}, {source.length_unit}"
            + (f", {source.other_units}" if source.other_units else ""),
        )
        _say(console, source.name)  # a line to itself: no table has room for a path
        for line in ("; ".join(facts), _cells(part)):
            console.print(Padding(Text(plain(line)), (0, 0, 0, 2), expand=False))
    if len(result.sources) > ROWS:
        _say(console, f"and {len(result.sources) - ROWS} more sources")
    for source in result.sources:
        for note in source.notes:
            _say(console, f"{source.name}: {note}")
    for note in result.notes:
        _say(console, note)
    _say(console, f"{out}: {_contents(result.dataset)}, {_size(out)}, in eV and Å")


def _print_info(dataset: Dataset, found: Info, rows: int | None) -> None:
    console = _console()
    _say(console, f"{dataset.path}: {_contents(dataset)}, {_size(dataset.path)}, sha256 {dataset.hash[:12]}")
    for key, value in sorted(dataset.attrs.items()):
        _say(console, f"  {key}: {value}")
    periodic = ", ".join(
        f"{count} periodic in {counted(k, 'direction')}" if k else f"{count} not periodic"
        for k, count in sorted(found.periodic.items())
    )
    _say(console, f"frames: {periodic}")

    table = _table("composition", "formula", "frames")
    for formula, count in found.formulas.most_common(rows):
        table.add_row(formula, str(count))
    _print_table(console, table, len(found.formulas), rows)
    if found.groups:
        table = _table("groups", "group", "frames")
        for group, count in found.groups.most_common(rows):
            table.add_row(str(group) or "(none)", str(count))
        _print_table(console, table, len(found.groups), rows)

    table = _table("statistics", "quantity", "unit", "mean", "std", "min", "max", left=2)
    _add(table, "atoms per frame", "", found.sizes)
    _add(table, "energy per atom", "eV", found.energy)
    _add(table, "  less one per element", "eV", found.residual)
    _add(table, "force, length", "eV/Å", found.force_size)
    _add(table, "force, components", "eV/Å", found.forces.get("all"))
    elements = [(symbol, part) for symbol, part in found.forces.items() if symbol != "all"]
    for symbol, part in elements[:rows]:
        _add(table, f"  {symbol} ({found.elements[symbol]})", "eV/Å", part)
    _add(table, "stress, components", "eV/Å^3", found.stress)
    _add(table, f"neighbours within {found.cutoff:g} Å", "", found.neighbours)
    _print_table(console, table, len(elements), rows)

    table = _table("shortest distances", "pair", "Å")
    for (a, b), distance in list(found.shortest.items())[:rows]:
        table.add_row(f"{a}-{b}", f"{distance:.3f}")
    _print_table(console, table, len(found.shortest), rows)

    if len(found.edgeless):
        frames = ", ".join(str(k) for k in found.edgeless[:5]) + (", ..." if len(found.edgeless) > 5 else "")
        _say(
            console, f"warning: {len(found.edgeless)} frames have no pair within {found.cutoff:g} Å: {frames}"
        )
    elif found.isolated:
        _say(console, f"warning: {found.isolated} atoms have no neighbour within {found.cutoff:g} Å")
    if told := found.duplicates.told():
        _say(console, told)
    for label, count in found.known.items():
        if 0 < count < found.frames:
            _say(console, f"warning: {label} is known in {count} of {found.frames} frames")


def _print_parts(parts: dict[str, Part], title: str) -> None:
    console = _console()
    table = _table(title, "part", "file", "frames", left=2)
    for name, part in parts.items():
        table.add_row(name, part.path, str(len(part.frames)))
    console.print(table)
    if repeats := sum(part.repeats for part in parts.values()):
        _say(console, f"{counted(repeats, 'frame')} repeat another one: such frames are kept in one part")
    for name, part in parts.items():
        if len(part.frames) != part.wanted:
            _say(
                console, f"{name}: {len(part.frames)} frames, not {part.wanted}, so that none is in two parts"
            )


def _print_table(console: Console, table: PlainTable, total: int, rows: int | None) -> None:
    console.print(table)
    if rows is not None and total > rows:
        _say(console, f"and {total - rows} more (--all)")


def _add(table: PlainTable, name: str, unit: str, statistics: Statistics | None) -> None:
    if statistics is not None:
        values = (statistics.mean, statistics.std, statistics.min, statistics.max)
        noise = 1e-9 * statistics.rms
        table.add_row(name, unit, *(_number(v if abs(v) > noise else 0.0, statistics.std) for v in values))


def _number(value: float, std: float) -> str:
    """With four digits, or as many as show a tenth of the standard deviation."""
    digits = math.ceil(math.log10(abs(value) / std)) + 2 if value and std else 0
    return f"{value:.{min(max(4, digits), 12)}g}"


def _contents(dataset: Dataset) -> str:
    frames, atoms = counted(len(dataset), "frame"), counted(len(dataset.numbers), "atom")
    return f"{frames}, {atoms} ({_elements(dataset)}), labels: {_labels(dataset)}"


def _elements(dataset: Dataset) -> str:
    symbols = [chemical_symbols[z] for z in dataset.species]
    if len(symbols) > 12:
        symbols = [*symbols[:10], f"and {len(symbols) - 10} more"]
    return " ".join(symbols)


def _labels(dataset: Dataset) -> str:
    counts = {label: int(dataset.known(label).sum()) for label in LABELS}
    names = [
        label if count == len(dataset) else f"{label} ({count} of {len(dataset)})"
        for label, count in counts.items()
        if count
    ]
    return ", ".join(names) or "none"


def _cells(dataset: Dataset) -> str:
    """Periodic directions of the frames, and lengths of the vectors there."""
    told = []
    for directions in np.unique(dataset.pbc.sum(axis=1)):
        frames = dataset.pbc.sum(axis=1) == directions
        count = "" if frames.all() else f"{frames.sum()} "
        if not directions:
            told.append(f"{count}not periodic")
            continue
        lengths = np.linalg.norm(dataset.cell[frames], axis=2)
        ends = [(f"{column.min():.4g}", f"{column.max():.4g}") for column in lengths.T if column.any()]
        cell = " x ".join(low if low == high else f"{low}..{high}" for low, high in ends)
        told.append(f"{count}periodic in {counted(int(directions), 'direction')}, cell {cell} Å")
    return "; ".join(told)


def _range(sizes) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return counted(low, "atom") if low == high else f"{low} to {high} atoms"


def _size(path: str) -> str:
    size = Path(path).stat().st_size
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
