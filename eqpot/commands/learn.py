"""`eqpot learn`."""

from __future__ import annotations

import math
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from eqpot.commands.fit import settings_of
from eqpot.commands.options import settings_options
from eqpot.commands.sources import check_used, frames, is_data_set
from eqpot.config import PRESETS
from eqpot.data_tools.options import reading, source_options
from eqpot.errors import UserError
from eqpot.learning.settings import LearnConfig, only_limits
from eqpot.words import counted, duration, say

if TYPE_CHECKING:
    from eqpot.learning.rounds import Learning


@click.command()
@click.argument("structures", nargs=-1, metavar="STRUCTURE...")
@click.option("-o", "--output", default="learn", show_default=True, metavar="DIR", help="Run folder.")
@click.option(
    "--from",
    "given",
    multiple=True,
    metavar="FILE",
    help="Begin with a data set instead of shaken structures, or with models; repeatable.",
)
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    help="Of the models, as for `eqpot fit`. [fast, or as --from]",
)
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="As for `eqpot fit`.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR; only limits may be changed.")
@click.option(
    "--import", "imported", metavar="FILE", help="With --resume: the exported frames, with their labels."
)
@settings_options(LearnConfig)
@source_options(hidden=True)
def learn(structures, output, given, preset, overrides, resume, imported, **options) -> None:
    """Learn a potential of STRUCTURE... on the fly, from nothing but a reference that computes frames.

    A committee of models is fitted to shaken structures. Then, round by round, its own dynamics lead to
    frames on which its models deviate; these, and some drawn at random to measure true errors, are computed
    by the reference, and the models fitted on. It ends when a whole round leads beyond no threshold of the
    deviation and the errors on frames never trained on are below --target, or at a limit.

    STRUCTURE is any file that ASE reads (its last frame). DIR gets data.h5, the committee model_1.h5 ...,
    log.csv and pictures. Killed at any moment, it goes on with --resume -o DIR and computes no frame twice.
    FILE of --import is read as by `eqpot data convert`, with its options for units and keys.
    """
    wanted = {name: options.pop(name) for name in LearnConfig.__dataclass_fields__}
    settings = {name: value for name, value in wanted.items() if value is not None}
    check_used([imported, *given], options)
    if resume:
        if structures or given or preset or overrides:
            raise UserError(
                "--resume: expected no structures and no settings of models, since a run keeps them"
            )
        only_limits(settings)
        run, labels = _resumed(output, settings, imported, reading(options))
    else:
        if imported:
            raise UserError("--import: expected --resume -o DIR, the run whose frames were exported")
        if not structures:
            raise click.UsageError("expected a structure: eqpot learn STRUCTURE --reference emt")
        models = [path for path in given if _is_model(path)]
        fit = settings_of(None, preset or (None if models else "fast"), overrides, {})
        data = [path for path in given if path not in models]
        run = _started(structures, output, models, data, fit, settings, reading(options))
        labels = None
    _learn(run, labels)


def _started(
    structures, output: str, models, given, fit: dict[str, Any], settings: dict[str, Any], how: dict[str, Any]
) -> Learning:
    from eqpot.files import read_structure
    from eqpot.learning.reference import relative
    from eqpot.learning.rounds import Learning
    from eqpot.structures.data import concatenate
    from eqpot.structures.trajectory import read_frame

    if "reference" in settings:
        settings["reference"] = relative(settings["reference"], output)
    if settings.get("export"):
        settings["export"] = os.path.relpath(settings["export"], output)
    config = LearnConfig.from_dict(settings)
    found = [read_frame(path) if is_data_set(path) else read_structure(path) for path in structures]
    data = [_data(path, how) for path in given]
    command = shlex.join(["eqpot", *sys.argv[1:]])
    return Learning.start(config, fit, found, output, concatenate(data) if data else None, models, command)


def _is_model(path: str) -> bool:
    """By its own mark; what cannot be read is told by who reads it as data."""
    from eqpot.files import is_hdf5, own_hdf5
    from eqpot.potential import FORMAT, VERSION

    if not os.path.isfile(path) or not is_hdf5(path):
        return False
    try:
        with own_hdf5(path, FORMAT, VERSION):
            return True
    except UserError:
        return False


def _resumed(output: str, settings: dict[str, Any], imported: str | None, how: dict[str, Any]):
    from eqpot.learning.rounds import Learning

    run = Learning.resume(output, **settings)
    if imported is None:
        return run, None
    if not run.config.export:
        raise UserError(
            "--import: expected a run with --export, whose frames were exported, found a reference"
        )
    return run, _data(imported, how)


def _data(path: str, how: dict[str, Any]):
    from eqpot.structures.data import read_dataset

    source = frames([path], how)
    return read_dataset(source) if isinstance(source, str) else source


def _learn(run: Learning, labels) -> None:
    from eqpot.files import shown
    from eqpot.learning.exchange import Exported

    run.tell = say
    config, here = run.config, shlex.quote(shown(run.folder))
    say(
        f"{counted(config.members, 'model')}, {counted(len(run.structures), 'structure')} at "
        f"{', '.join(f'{kelvin:g}' for kelvin in config.temperatures)} K, run folder {shown(run.folder)}"
    )
    try:
        reason = run.run(labels)
    except Exported as waiting:
        say(
            f"wrote {waiting.path}: {counted(waiting.count, 'frame')} to be computed; go on with: "
            f"eqpot learn --resume -o {here} --import LABELLED.extxyz"
        )
        return
    except KeyboardInterrupt:
        say(f"stopped; continue with: eqpot learn --resume -o {here}")
        raise
    say(f"done after {duration(run.elapsed())}: {reason}")
    _report(run)


def _report(run: Learning) -> None:
    from eqpot.files import shown
    from eqpot.learning import folder
    from eqpot.learning.calibration import by_deviation, scaled_by_the_others
    from eqpot.printing import PlainTable, show

    table = PlainTable("errors on frames drawn at random, not trained on then; RMSE")
    for heading in ("round", "frames", "failed", "beyond", "tested", "F, meV/Å", "E, meV/atom"):
        table.add_column(heading, justify="right")
    for row in run.rows():
        errors = (row.get(name, math.nan) for name in ("forces_rmse", "energy_per_atom_rmse"))
        cells = ("" if math.isnan(error) else f"{1000 * error:.3g}" for error in errors)
        names = ("round", "frames", "failed", "beyond", "tested")
        table.add_row(*(str(row.get(name, "")) for name in names), *cells)
    show(table)
    tested = run.tested()
    if len(tested):
        table = PlainTable(f"deviation, scaled, against true error of forces, {len(tested)} frames; meV/Å")
        for heading in ("quarter", "frames", "deviation", "error"):
            table.add_column(heading, justify="right")
        for k, (count, deviation, error) in enumerate(by_deviation(scaled_by_the_others(tested), 1.0), 1):
            table.add_row(str(k), str(count), f"{1000 * deviation:.3g}", f"{1000 * error:.3g}")
        show(table)
        error, target = 1000 * tested.rms("error"), run.config.target
        reached = "below" if error <= target else "not below"
        say(f"error of forces on these: {error:.3g} meV/Å, {reached} the target of {target:g}")
    models = " ".join(shlex.quote(shown(path)) for path in run.models())
    say(
        f"deviations are to be multiplied by {tested.factor:.2f}",
        f"data set: {shown(run.folder / folder.DATA)}, log: {shown(run.folder / folder.LOG)}",
        f"committee: {models}",
    )
