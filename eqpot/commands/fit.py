"""`eqpot fit`."""

import shlex
import sys

import click

from eqpot.commands.options import Whole, device_option, one_of
from eqpot.config import PRESETS
from eqpot.errors import UserError
from eqpot.words import counted, say

STOP_OPTIONS = {"max_epochs": "--max-epochs N", "max_time": "--max-time TIME"}


@click.command()
@click.argument("data", required=False, metavar="DATA.h5")
@click.option("--valid", metavar="FILE", help="Validation frames; without it they are split off DATA.")
@click.option("--n-train", type=Whole(), metavar="N", help="Frames to train on, drawn by the seed.")
@click.option("--n-valid", type=Whole(), metavar="N", help="Frames to validate on, drawn by the seed.")
@click.option("--config", "settings", metavar="FILE.toml", help="Settings; see --show-config.")
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    help="Settings that --config and --set change: eqpot's defaults, a narrower network in 0.6 of the time, "
    "a wider one in 2.2 times the time, or those of NequIP's preprint.",
)
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="One setting, repeatable.")
@click.option("-o", "--output", default="run", show_default=True, metavar="DIR", help="Run folder.")
@click.option("--max-epochs", type=Whole(), metavar="N", help="Stop after N epochs.")
@click.option(
    "--max-time",
    metavar="TIME",
    help="Stop after TIME (seconds, or 90s, 45m, 2h), in which compiling counts.",
)
@click.option("--seed", type=Whole(), metavar="N", help="Of everything random.")
@click.option("--resume", is_flag=True, help="Continue the run in DIR; only its stops may be changed.")
@click.option("--overwrite", is_flag=True, help="Replace the run in DIR.")
@click.option("--show-config", is_flag=True, help="Print all settings as TOML, and do nothing else.")
@device_option
def fit(
    data, valid, settings, preset, overrides, output, resume, overwrite, show_config, device, **options
) -> None:
    """Train a potential on DATA.h5 (made by `eqpot data convert`).

    The learning rate falls to 0 before --max-epochs or --max-time, whichever comes first; without them it is
    cut at plateaus of the validation error, and the fit ends after many cuts, perhaps days.

    The run folder gets model.h5 (best by validation force RMSE), checkpoint.h5, log.csv, config.toml and
    learning_curve.png.
    """
    from eqpot.config import Config
    from eqpot.settings import parse_setting, read_toml

    one_of(resume, overwrite)
    config = Config.from_dict({"preset": preset or "default"})
    if resume:
        from eqpot.training.checkpoint import checkpoint_of

        if preset is not None:
            raise UserError("--preset: expected no preset with --resume, since a run keeps its settings")
        config = Config.from_dict(checkpoint_of(output)[0]["config"])
    if settings is not None:
        Config.from_toml(settings)  # so that an error names the file
        tables = read_toml(settings)
        if preset not in (None, tables.get("preset", preset)):
            raise UserError(f"--preset: expected {tables['preset']}, as {settings} has it, found {preset}")
        config = config.replace(tables)
    for table, key, value in map(parse_setting, overrides):
        config = config.replace({table: {key: value}})
    config = config.replace({"train": {key: value for key, value in options.items() if value is not None}})
    if show_config:
        say(*config.to_toml().splitlines())
        return
    if data is None and not resume:
        raise click.UsageError("expected a data set: eqpot fit DATA.h5")

    from eqpot.training.trainer import Trainer

    if resume:
        trainer = Trainer.resume(config, output, data, valid, device)
    else:
        command = shlex.join(["eqpot", *sys.argv[1:]])
        trainer = Trainer.start(config, data, output, valid, overwrite, command, device)
    _train(trainer)


def _train(trainer) -> None:
    from eqpot.commands.evaluate import tables
    from eqpot.commands.progress import Lines, Live
    from eqpot.printing import console, show
    from eqpot.training.checkpoint import STOPS
    from eqpot.training.trainer import MODEL

    terminal = console()
    say(*(f"warning: {line}" for line in trainer.warnings()), *summary(trainer))
    resume = f"eqpot fit --resume -o {shlex.quote(str(trainer.folder))}"
    ended = trainer.finished()  # before a resume
    try:
        with Live(trainer, terminal) if terminal.is_terminal and not ended else Lines() as watch:
            reason = trainer.run(watch)
    except KeyboardInterrupt:
        if trainer.rows:
            trainer.write_curve()
        say(f"stopped in epoch {trainer.state.epoch + 1}; continue with: {resume}")
        raise
    trainer.write_curve()
    model = trainer.folder / MODEL
    if ended:
        stop = next(key for key in STOPS if key in ended)
        option = STOP_OPTIONS.get(stop, f"--set train.{stop}=VALUE")
        say(
            f"nothing was trained, the run had already ended: {ended}; to go on, change that limit: "
            f"{resume} {option}"
        )
    else:
        say(f"done: {reason}; best epoch {trainer.state.best_epoch}")
    show(*tables(trainer.report(), f"errors on the {counted(len(trainer.valid), 'validation frame')}"))
    say(*filter(None, [trainer.verdict()]))
    say(f"model: {model}", f"evaluate it: eqpot eval {shlex.quote(str(model))} DATA.h5")


def summary(trainer) -> list[str]:
    """What is about to be trained, on what."""
    train, valid, model = trainer.train, trainer.valid, trainer.config.model
    return [
        f"{counted(len(train), 'training frame')}, {trainer.batch_size} a step, "
        f"{counted(len(valid), 'validation frame')}, "
        f"{trainer.potential.mean_neighbours:.1f} neighbours per atom within {model.cutoff:g} Å",
        f"{len(trainer.weights)} parameters ({model.symmetry}, l_max {model.l_max}{model.beyond}, "
        f"{counted(model.blocks, 'block')}, {model.features} features, {trainer.config.train.dtype}), "
        f"run folder {trainer.folder}",
        *(f"note: {note}" for note in trainer.notes()),
        *_without_end(trainer),
    ]


def _without_end(trainer) -> list[str]:
    train = trainer.config.train
    if train.max_epochs or train.max_time or train.stop_patience:
        return []
    return [
        f"note: no --max-time and no --max-epochs: the fit ends when the rate, cut after {train.patience} "
        f"epochs without a better error, is below {train.min_learning_rate:g}; Ctrl-C ends it at any time"
    ]
