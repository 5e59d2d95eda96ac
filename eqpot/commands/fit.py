"""`eqpot fit`."""

import shlex
import sys
from collections.abc import Mapping

import click

from eqpot.commands.options import Whole, device_option, one_of
from eqpot.commands.ranks import OnceTold, first_rank
from eqpot.commands.sources import check_used, frames, is_data_set
from eqpot.config import PRESETS, Config
from eqpot.data_tools.options import reading, source_options
from eqpot.errors import UserError
from eqpot.settings import parse_setting, read_toml
from eqpot.words import counted, say

LIMITS = ("n_train", "n_valid", "max_epochs", "max_time", "seed")  # options that are settings of [train]
STOP_OPTIONS = {"max_epochs": "--max-epochs N", "max_time": "--max-time TIME"}


@click.command(cls=OnceTold)
@click.argument("data", nargs=-1, metavar="DATA...")
@click.option("--valid", metavar="FILE", help="Validation frames; without it they are split off DATA.")
@click.option(
    "--n-train",
    type=Whole(),
    metavar="N",
    help="Frames to train on, drawn by the seed; 0: all that are left.",
)
@click.option("--n-valid", type=Whole(), metavar="N", help="Frames to validate on, drawn by the seed.")
@click.option(
    "--from",
    "parent",
    metavar="MODEL.h5",
    help="Fine-tune: begin with the weights of MODEL.h5, whose model settings are kept.",
)
@click.option(
    "--replay", metavar="FILE", help="With --from: frames that it was fitted to, trained on as well."
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="GROUP,...",
    help="With --from: weights that stay, of embedding, radial, blocks (or block1, ...), readout.",
)
@click.option("--config", "settings", metavar="FILE.toml", help="Settings; see --show-config.")
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    help="Settings that --config and --set change: a narrower network in 0.6 of the time, eqpot's defaults, "
    "a wider network in 2.2 times the time, or those of NequIP's preprint.",
)
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="One setting, repeatable.")
@click.option("-o", "--output", default="run", show_default=True, metavar="DIR", help="Run folder.")
@click.option("--max-epochs", type=Whole(), metavar="N", help="Stop after N epochs; 0: no limit.")
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
@click.option(
    "--mpi", is_flag=True, help="Share the work with the other ranks that mpirun or srun has started."
)
@source_options(hidden=True)
def fit(
    data,
    valid,
    parent,
    replay,
    freeze,
    settings,
    preset,
    overrides,
    output,
    resume,
    overwrite,
    show_config,
    device,
    mpi,
    **options,
) -> None:
    """Train a potential on DATA.

    DATA is a data set file (made by `eqpot data convert`), or any sources that `eqpot data convert` takes,
    with its options for units, keys, types and missing labels (`eqpot data convert --help`); the run folder
    then keeps the frames.

    The learning rate falls to 0 before --max-epochs or --max-time, whichever comes first; without them it is
    cut at plateaus of the validation error, and the fit ends after many cuts, perhaps days.

    With --from, weights, scale and mean neighbours are those of MODEL.h5; elements that it does not know get
    fresh weights; the energies of atoms are fitted to what it leaves of the new energies (or kept: --set
    train.shifts=parent), so that DATA may be of another level of theory; the learning rate begins at 0.002.

    The run folder gets model.h5 (best by validation force RMSE), checkpoint.h5, log.csv, config.toml and
    learning_curve.png.
    """
    ranks, found = first_rank(mpi)
    one_of(resume, overwrite)
    if mpi and device == "cuda":
        raise UserError("--device: expected cpu with --mpi, found cuda")
    device = "cpu" if mpi else device
    limits = {key: options.pop(key) for key in LIMITS}
    train = {key: value for key, value in limits.items() if value is not None}
    if freeze:
        train["freeze"] = ",".join(freeze)
    given = settings_of(settings, preset, overrides, train)
    tuned = None
    if resume:
        _check_resumed(data, valid, **{"preset": preset, "from": parent, "replay": replay, "freeze": freeze})
        from eqpot.training.checkpoint import checkpoint_of

        config = Config.from_dict(checkpoint_of(output)[0]["config"]).replace(given)
    elif parent is not None:
        from eqpot.training.finetune import Parent

        tuned = Parent.load(parent)
        config = tuned.settings(given)
    else:
        config = Config.from_dict(given)
    if show_config:
        say(*config.to_toml().splitlines())
        return
    if not data and not resume:
        raise click.UsageError("expected a data set: eqpot fit DATA.h5")
    check_used([*data, valid, replay], options)

    from eqpot.training.trainer import Trainer

    if resume:
        trainer = Trainer.resume(config, output, data[0] if data else None, valid, device)
    else:
        how, command = reading(options), shlex.join(["eqpot", *sys.argv[1:]])
        data, valid, replay = (
            None if source is None else frames(source, how)
            for source in (data, None if valid is None else [valid], None if replay is None else [replay])
        )
        of_run = config, data, output, valid, overwrite, command, device, tuned, replay
        trainer = Trainer.start(*of_run, 1 if ranks is None else ranks.size)
    _train(trainer, ranks, found)


def settings_of(settings, preset, overrides, train) -> dict:
    """Settings from a file, from --set and from options, as `Config.from_dict` takes them."""
    given: dict = {} if preset is None else {"preset": preset}
    if settings is not None:
        Config.from_toml(settings)  # so that an error names the file
        tables = read_toml(settings)
        if preset not in (None, tables.get("preset", preset)):
            raise UserError(f"--preset: expected {tables['preset']}, as {settings} has it, found {preset}")
        given |= tables
    for table, key, value in [*map(parse_setting, overrides), *(("train", *pair) for pair in train.items())]:
        before = given.get(table)
        given[table] = {**(before if isinstance(before, Mapping) else {}), key: value}
    return given


def _check_resumed(data, valid, **new) -> None:
    for name, value in new.items():
        if value:
            what = "preset" if name == "preset" else f"--{name}"
            raise UserError(
                f"--{name}: expected no {what} with --resume, since a run keeps its settings and beginning"
            )
    if len(data) > 1 or not all(map(is_data_set, [*data, *([valid] if valid else [])])):
        raise UserError(
            f"{data[0] if data else valid}: expected no source with --resume, since the run folder keeps its "
            "frames"
        )


def _train(trainer, ranks, found: str) -> None:
    from eqpot.commands.evaluate import tables
    from eqpot.commands.progress import Lines, Live
    from eqpot.printing import console, show
    from eqpot.training.checkpoint import STOPS
    from eqpot.training.trainer import MODEL

    terminal = console()
    warnings = [*trainer.warnings(), *_idle(trainer, ranks)]
    say(*(f"warning: {line}" for line in warnings), *summary(trainer), *filter(None, [found]))
    resume = f"eqpot fit --resume -o {shlex.quote(str(trainer.folder))}" + " --mpi" * (ranks is not None)
    launcher = ", started as before or on other ranks" * (ranks is not None)
    ended = trainer.finished()  # before a resume
    try:
        if ranks is not None and not ended:
            ranks.begin(trainer)
        with Live(trainer, terminal) if terminal.is_terminal and not ended else Lines() as watch:
            reason = trainer.run(watch)
    except KeyboardInterrupt:
        if trainer.rows:
            trainer.write_curve()
        say(f"stopped in epoch {trainer.state.epoch + 1}; continue with: {resume}{launcher}")
        raise
    trainer.write_curve()
    model = trainer.folder / MODEL
    if ended:
        stop = next(key for key in STOPS if key in ended)
        option = STOP_OPTIONS.get(stop, f"--set train.{stop}=VALUE")
        say(
            f"nothing was trained, the run had already ended: {ended}; to go on, change that limit: "
            f"{resume} {option}{launcher}"
        )
    else:
        say(f"done: {reason}; best epoch {trainer.state.best_epoch}")
        if moved := trainer.potential.provenance.get("shifts_refit"):
            say(f"shifts moved {moved}")
    found = trainer.report()
    show(*tables(found, f"errors on the {counted(len(trainer.valid), 'validation frame')}"))
    say(*(f"warning: {line}" for line in found["doubts"]), *filter(None, [trainer.verdict()]))
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


def _idle(trainer, ranks) -> list[str]:
    idle = 0 if ranks is None else ranks.size - trainer.batch_size
    if idle <= 0:
        return []
    step = counted(trainer.batch_size, "frame")
    return [f"{idle} of {ranks.size} ranks have nothing to do, since this run takes {step} a step"]


def _without_end(trainer) -> list[str]:
    train = trainer.config.train
    if train.max_epochs or train.max_time or train.stop_patience:
        return []
    return [
        f"note: no --max-time and no --max-epochs: the fit ends when the rate, cut after {train.patience} "
        f"epochs without a better error, is below {train.min_learning_rate:g}; Ctrl-C ends it at any time"
    ]
