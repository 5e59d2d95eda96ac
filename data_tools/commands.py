"""The commands `eqpot data ...`: arguments in, tables out; the other modules do the work."""

import math

import click
from rich.console import Console
from rich.progress import Progress

from eqpot.commands.options import Finite, Whole
from eqpot.data_tools.convert import convert as convert_sources
from eqpot.data_tools.info import Info, Statistics, describe
from eqpot.data_tools.options import reading, source_options
from eqpot.data_tools.recipe import recipe
from eqpot.data_tools.recipe import recipes as all_recipes
from eqpot.data_tools.sample import sample as make_sample
from eqpot.data_tools.split import METHODS, PARTS, Part
from eqpot.data_tools.split import split as split_file
from eqpot.data_tools.told import ROWS, contents, say, size, tell, terminal
from eqpot.printing import PlainTable
from eqpot.structures.data import Dataset, read_dataset
from eqpot.words import counted


@click.group()
def data() -> None:
    """Convert, describe, split or make a data set; recipes for published ones."""


@data.command()
@click.argument("files", nargs=-1, metavar="SRC... OUT.h5")
@source_options()
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5.")
def convert(files, overwrite, **options):
    """Convert SRC... into the data set file OUT.h5, in eV and Å.

    A SRC is anything ASE reads (extxyz first), an npz (MD17, sGDML, rMD17, or the usual names), a
    folder of DeePMD systems, or a data set file. Forces are in energy/length, stress in energy/length^3 and
    positive under tension, a virial is -stress times volume; six components are in the order xx yy zz yz xz
    xy, which is not VASP's (xx yy zz xy yz zx). Energy and forces are required of all frames, stress of all
    periodic ones or none. Labels are found by plain names or those of a reference (REF_energy); between two
    that differ, --energy-key and its like decide. Weights of frames, for `eqpot fit`, are config_weight's.
    """
    if len(files) < 2:
        raise click.UsageError(
            "convert needs at least one source and the file to write: eqpot data convert SRC... OUT.h5"
        )
    *sources, out = files
    result = convert_sources(sources, out, overwrite=overwrite, **reading(options))
    tell(result)
    say(terminal(), f"{out}: {contents(result.dataset)}, {size(out)}, in eV and Å")


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
    console = terminal()
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
    say(console, f"{out}: {contents(dataset)}, {size(out)}")


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


def _table(title: str, *columns: str, left: int = 1) -> PlainTable:
    """A table whose first ``left`` columns hold words, the others numbers."""
    table = PlainTable(title)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k < left else "right", overflow="fold", no_wrap=k >= left)
    return table


def _print_info(dataset: Dataset, found: Info, rows: int | None) -> None:
    console = terminal()
    say(console, f"{dataset.path}: {contents(dataset)}, {size(dataset.path)}, sha256 {dataset.hash[:12]}")
    for key, value in sorted(dataset.attrs.items()):
        say(console, f"  {key}: {value}")
    periodic = ", ".join(
        f"{count} periodic in {counted(k, 'direction')}" if k else f"{count} not periodic"
        for k, count in sorted(found.periodic.items())
    )
    say(console, f"frames: {periodic}")

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
        say(
            console, f"warning: {len(found.edgeless)} frames have no pair within {found.cutoff:g} Å: {frames}"
        )
    elif found.isolated:
        say(console, f"warning: {found.isolated} atoms have no neighbour within {found.cutoff:g} Å")
    if told := found.duplicates.told():
        say(console, told)
    for label, count in found.known.items():
        if 0 < count < found.frames:
            say(console, f"warning: {label} is known in {count} of {found.frames} frames")


def _print_parts(parts: dict[str, Part], title: str) -> None:
    console = terminal()
    table = _table(title, "part", "file", "frames", left=2)
    for name, part in parts.items():
        table.add_row(name, part.path, str(len(part.frames)))
    console.print(table)
    if repeats := sum(part.repeats for part in parts.values()):
        say(console, f"{counted(repeats, 'frame')} repeat another one: such frames are kept in one part")
    for name, part in parts.items():
        if len(part.frames) != part.wanted:
            say(
                console, f"{name}: {len(part.frames)} frames, not {part.wanted}, so that none is in two parts"
            )


def _print_table(console: Console, table: PlainTable, total: int, rows: int | None) -> None:
    console.print(table)
    if rows is not None and total > rows:
        say(console, f"and {total - rows} more (--all)")


def _add(table: PlainTable, name: str, unit: str, statistics: Statistics | None) -> None:
    if statistics is not None:
        values = (statistics.mean, statistics.std, statistics.min, statistics.max)
        noise = 1e-9 * statistics.rms
        table.add_row(name, unit, *(_number(v if abs(v) > noise else 0.0, statistics.std) for v in values))


def _number(value: float, std: float) -> str:
    """With four digits, or as many as show a tenth of the standard deviation."""
    digits = math.ceil(math.log10(abs(value) / std)) + 2 if value and std else 0
    return f"{value:.{min(max(4, digits), 12)}g}"
