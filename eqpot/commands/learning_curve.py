"""`eqpot learning-curve`."""

import re
import shlex
import sys
from pathlib import Path

import click

from eqpot.commands.fit import settings_of
from eqpot.commands.options import Whole, device_option
from eqpot.commands.sources import check_used, frames
from eqpot.config import PRESETS, Config
from eqpot.data_tools.options import reading, source_options
from eqpot.errors import UserError
from eqpot.words import counted, duration, say

LIMITS = ("n_valid", "max_epochs", "max_time", "seed")  # options that are settings of [train]


class Sizes(click.ParamType):
    """Whole numbers above 0, joined by commas."""

    name = "sizes"

    def convert(self, value, param, ctx):
        parts = [part.strip() for part in value.split(",")]
        if not all(re.fullmatch("[1-9][0-9]{0,8}", part) for part in parts):
            self.fail(f"expected numbers of frames such as 25,50,100, found {value!r}", param, ctx)
        sizes = [int(part) for part in parts]
        if len(set(sizes)) < max(2, len(sizes)):
            self.fail(f"expected two different numbers of frames or more, found {value!r}", param, ctx)
        return sizes


@click.command("learning-curve")
@click.argument("data", nargs=-1, metavar="DATA...")
@click.option("--valid", metavar="FILE", help="Validation frames; without it they are split off DATA.")
@click.option("--n-valid", type=Whole(), metavar="N", help="Frames to validate on. [a tenth of DATA, or all]")
@click.option(
    "--frames",
    "sizes",
    type=Sizes(),
    metavar="N,N,...",
    help="Numbers of training frames. [1/8, 1/4, 1/2, all]",
)
@click.option("--config", "settings", metavar="FILE.toml", help="Settings, as for `eqpot fit`.")
@click.option("--preset", type=click.Choice(tuple(PRESETS)), help="As for `eqpot fit`.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="One setting, repeatable.")
@click.option("-o", "--output", default="curve", show_default=True, metavar="DIR", help="Folder.")
@click.option("--max-epochs", type=Whole(1), metavar="N", help="Of each fit.")
@click.option("--max-time", metavar="TIME", help="Of each fit (seconds, or 90s, 45m, 2h).")
@click.option("--seed", type=Whole(), metavar="N", help="Of everything random.")
@click.option("--resume", is_flag=True, help="Go on with the fits in DIR.")
@device_option
@source_options(hidden=True)
def learning_curve(
    data, valid, sizes, settings, preset, overrides, output, resume, device, **options
) -> None:
    """How errors fall with the number of training frames of DATA, and what twice as many would give.

    A fit for each number, all validated on the same frames; fewer frames are a part of more. Each fit ends
    after --max-time, or after --max-epochs, in which each frame is seen as often: what is short tells more
    about the fits than about the frames. DATA is what `eqpot fit` takes. DIR gets the run folders,
    learning_curve.csv and learning_curve.png.
    """
    train = {key: value for key in LIMITS if (value := options.pop(key)) is not None}
    given = (data, valid, sizes, settings, preset, overrides, train)
    if resume and any(given):
        raise UserError("--resume: expected -o DIR alone, since the fits there keep data and settings")
    check_used([*data, valid], options)
    if not resume:
        if not data:
            raise click.UsageError("expected a data set: eqpot learning-curve DATA.h5")
        config = Config.from_dict(settings_of(settings, preset, overrides, train))
        if not (config.train.max_epochs or config.train.max_time):
            raise UserError("expected --max-epochs or --max-time, where each of the fits ends, found neither")
    from eqpot.runs import Hold
    from eqpot.training import by_frames

    folder = Path(output)
    if resume:
        found = by_frames.begun_in(folder)
    else:
        how, command = reading(options), shlex.join(["eqpot", *sys.argv[1:]])
        data, valid = (None if not source else frames(source, how) for source in (data, valid and [valid]))
        found = by_frames.begin_all(config, data, folder, valid, sizes or (), command, device)
    with Hold(folder):
        _run(folder, found, device)


def _run(folder: Path, sizes: list[int], device: str) -> None:
    from eqpot.printing import PlainTable, show
    from eqpot.training import by_frames
    from eqpot.training.outlook import Law

    say(f"fits with {', '.join(map(str, sizes))} training frames, in {folder}")
    rows = {}
    try:
        for size in sizes:
            rows[size] = row = by_frames.run(folder, size, device=device)
            took = f"{counted(row['epochs'], 'epoch')} in {duration(row['seconds'])}"
            say(f"{counted(size, 'frame')}: F {1000 * row['forces_rmse']:.3g} meV/Å after {took}")
    except KeyboardInterrupt:
        say(f"stopped; continue with: eqpot learning-curve --resume -o {shlex.quote(str(folder))}")
        raise
    by_frames.write(folder, rows)
    table = PlainTable("RMSE on the validation frames")
    units = {"forces_rmse": "F, meV/Å", "energy_per_atom_rmse": "E, meV/atom", "stress_rmse": "S, meV/Å³"}
    known = [key for key in units if all(row[key] is not None for row in rows.values())]
    for heading in ("frames", *(units[key] for key in known)):
        table.add_column(heading, justify="right")
    for size, row in rows.items():
        table.add_row(str(size), *(f"{1000 * row[key]:.4g}" for key in known))
    show(table)
    law = Law.of(sizes, [row["forces_rmse"] for row in rows.values()])
    error = "" if len(sizes) < 3 else f" ± {law.spread:.2g}"
    twice = 2 * sizes[-1]
    say(
        f"F goes as the number of frames to the power {-law.exponent:.2f}{error}: twice as many, {twice}, by "
        f"fits as long, would give about {1000 * law(twice):.3g} meV/Å"
    )
    say(f"wrote {folder / by_frames.TABLE} and {folder / by_frames.PICTURE}")
