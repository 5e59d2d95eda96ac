"""The command line. Modules that take long to import are imported by the command that needs them."""

import dataclasses
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

import click

from eqpot.config import PRESETS, DynamicsConfig
from eqpot.errors import UserError
from eqpot.options import Finite, Whole
from eqpot.stops import answering, interrupt
from eqpot.words import counted, plain, say

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

STOP_OPTIONS = {"max_epochs": "--max-epochs N", "max_time": "--max-time TIME"}


class Imported(click.Group):
    """The commands of a group of the same name in a module, imported when one is asked for."""

    def __init__(self, name: str, module: str, help: str):
        super().__init__(name, help=help)
        self.module = module

    def list_commands(self, context):
        return getattr(import_module(self.module), self.name).list_commands(context)

    def get_command(self, context, name):
        return getattr(import_module(self.module), self.name).get_command(context, name)


class Commands(click.Group):
    """An EOFError, of a damaged file, is an error: click takes it for the end of a user's input."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except EOFError as e:
            raise RuntimeError(f"EOFError: {e}") from e


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eqpot")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Equivariant interatomic potentials: fit one to a data set, evaluate it, use it."""


cli.add_command(
    Imported("data", "eqpot.data_tools.commands", "Convert, describe, split or make a data set; recipes.")
)
cli.add_command(
    Imported("analyze", "eqpot.analyze_commands", "Distances, angles and diffusion in trajectories.")
)


@cli.command()
@click.argument("data", required=False, metavar="DATA.h5")
@click.option("--valid", metavar="FILE", help="Validation frames; without it they are split off DATA.")
@click.option("--n-train", type=Whole(), metavar="N", help="Frames to train on, drawn by the seed.")
@click.option("--n-valid", type=Whole(), metavar="N", help="Frames to validate on, drawn by the seed.")
@click.option("--config", "settings", metavar="FILE.toml", help="Settings; see --show-config.")
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    help="Settings that --config and --set change: eqpot's defaults, or those of NequIP's preprint.",
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
    from eqpot.config import Config, parse_setting, read_toml

    _one_of(resume, overwrite)
    config = Config.from_dict({"preset": preset or "default"})
    if resume:
        from eqpot.fit import Trainer, checkpoint_of

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

    from eqpot.fit import Trainer

    if resume:
        trainer = Trainer.resume(config, output, data, valid, device)
    else:
        command = shlex.join(["eqpot", *sys.argv[1:]])
        trainer = Trainer.start(config, data, output, valid, overwrite, command, device)
    _train(trainer)


def _one_of(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: expected one of them, found both")


def _train(trainer) -> None:
    from eqpot.evaluate import tables
    from eqpot.fit import MODEL, STOPS
    from eqpot.printing import console, show
    from eqpot.progress import Lines, Live

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
        f"{len(trainer.weights)} parameters ({model.symmetry}, l_max {model.l_max}, "
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


@cli.command("eval")
@click.argument("model", metavar="MODEL.h5")
@click.argument("data", metavar="DATA.h5")
@click.option("--json", "json_file", metavar="FILE", help="Write the errors as JSON.")
@click.option("--plots", metavar="DIR", help="Draw predicted against reference values.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, and the pictures in DIR.")
@device_option
def evaluate_(model, data, json_file, plots, overwrite, device) -> None:
    """Errors of MODEL.h5 on the labelled frames of DATA.h5."""
    from eqpot.data import LABELS, read_dataset
    from eqpot.evaluate import evaluate, tables, write_json
    from eqpot.files import check_folder, check_output
    from eqpot.potential import Potential
    from eqpot.printing import show

    if json_file is not None:
        check_output(json_file, overwrite)
    if plots is not None:
        check_folder(plots, [f"{label}.png" for label in LABELS], overwrite)
    potential = Potential.load(model, device)
    dataset = read_dataset(data)
    content, prediction, warning = evaluate(potential, dataset)
    if warning:
        say(f"warning: {warning}")
    if potential.provenance.get("note"):
        say(f"note: {potential.provenance['note']}")
    show(*tables(content, f"errors on the {counted(len(dataset), 'frame')} of {data}"))
    if json_file is not None:
        write_json(json_file, content)
        say(f"wrote {json_file}")
    if plots is not None:
        from eqpot.plots import parity

        for path in parity(dataset, prediction, plots):
            say(f"wrote {path}")


@cli.command()
@click.argument("model", metavar="MODEL.h5")
def info(model) -> None:
    """Settings, parameters and origin of MODEL.h5."""
    from ase.data import chemical_symbols

    from eqpot.potential import Potential

    potential = Potential.load(model)
    say(*potential.config.to_toml().split("\n"))
    symbols = [chemical_symbols[z] for z in potential.species]
    rows = {
        "parameters": len(potential.params.flat),
        "dtype": potential.dtype,
        "species": " ".join(symbols),
        "mean neighbours": f"{potential.mean_neighbours:.2f}",
        "shift, eV": " ".join(f"{s} {x:.4f}" for s, x in zip(symbols, potential.shift, strict=True)),
        "scale, eV": " ".join(f"{s} {x:.4f}" for s, x in zip(symbols, potential.scale, strict=True)),
        **{k.replace("_", " "): v for k, v in potential.provenance.items() if k != "config" and v != ""},
    }
    if "closest" in rows:
        rows["closest"] = "  ".join(f"{pair} {r:.3f} Å" for pair, r in rows["closest"].items())
    if "valid forces rmse" in rows:
        rows["valid forces rmse"] = f"{1000 * rows['valid forces rmse']:.4g} meV/Å"
    width = max(map(len, rows))
    say(*(f"{key:<{width}}  {value}" for key, value in rows.items()))


@cli.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@click.option(
    *("-o", "--output"), default="relaxed.extxyz", show_default=True, metavar="FILE", help="The result."
)
@click.option(
    "--fmax",
    type=Finite(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Longest force left, eV/Å.",
)
@click.option("--steps", type=Whole(1), default=500, show_default=True, help="At most.")
@click.option("--cell", is_flag=True, help="The cell, too, to zero stress.")
@click.option(
    "--optimizer",
    type=click.Choice(("lbfgs", "bfgs", "fire")),
    default="lbfgs",
    show_default=True,
    help="One of ASE's.",
)
@frame_index
@click.option("--overwrite", is_flag=True, help="Replace the result.")
@device_option
def relax(model, structure, output, fmax, steps, cell, optimizer, index, overwrite, device) -> None:
    """Relax STRUCTURE with MODEL.h5.

    STRUCTURE is any file that ASE reads, or a data set. Writes what was reached to FILE, in the format that
    its name tells, also after Ctrl-C. The exit status is 2 where more steps would be needed.
    """
    from eqpot.calculator import EqpotCalculator
    from eqpot.files import check_structure, write_structure
    from eqpot.potential import Potential
    from eqpot.relax import Lost, Step, advice, relax

    check_structure(output, overwrite)
    potential = Potential.load(model, device)
    atoms, structure = _frame(structure, index, potential)
    if cell and not atoms.pbc.all():
        raise UserError(
            f"{structure}: --cell: expected a structure periodic in all three directions, "
            f"found pbc {atoms.pbc.tolist()}"
        )
    atoms.calc = EqpotCalculator(potential)
    columns = {"step": 5, "energy, eV": 16, "force, eV/Å": 11}
    if cell:
        columns |= {"stress, eV/Å³": 13, "volume, Å³": 11}
    found: list[Step] = []

    def row(*cells: str) -> None:
        say("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, columns.values(), strict=True)))

    def show(step: Step) -> None:
        found.append(step)
        more = (f"{step.stress:.3e}", f"{step.volume:.3f}") if cell else ()
        row(f"{step.number}", f"{step.energy:.6f}", f"{step.force:.5f}", *more)

    row(*columns)
    why = f"not relaxed after {counted(steps, 'step')}"
    try:
        reached = relax(atoms, fmax, steps, cell, optimizer, show)
    except Lost as e:
        reached, why = False, f"{e}; step {e.step.number} is kept"
        found.append(e.step)
    except UserError as e:
        raise UserError(f"{structure}: {e}") from e
    except KeyboardInterrupt:
        write_structure(output, atoms)
        say(f"wrote {output}, where step {found[-1].number if found else 0} had led")
        raise
    write_structure(output, atoms)
    say(f"wrote {output}")
    if not reached:
        raise UserError(
            f"{structure}: {why}: expected no force above {fmax:g} eV/Å{_as_stress(fmax, found[-1], atoms)}; "
            f"{advice(found, potential, atoms, output)}"
        )


def _as_stress(fmax: float, step, atoms) -> str:
    """What was found, and with a cell that moves the stress that counts like fmax."""
    if step.stress is None:
        return f", found {step.force:.4g} eV/Å"
    limit = fmax * len(atoms) / step.volume
    return (
        f" and no stress above {limit:.3g} eV/Å³ (the same, by the volume of an atom), "
        f"found {step.force:.4g} eV/Å and {step.stress:.3g} eV/Å³"
    )


def _dynamics_options(command: Callable) -> Callable:
    """An option for each setting of DynamicsConfig, None where not given."""
    for field in reversed(dataclasses.fields(DynamicsConfig)):
        comment, choices = field.metadata["comment"], field.metadata["choices"]
        kind = click.Choice(choices) if choices else {int: Whole(), str: str}.get(field.type, float)
        option = {"is_flag": True, "default": None} if field.type is bool else {"type": kind}
        shown = "" if field.default is None or field.type is bool else f" [{field.default}]"
        name = f"--{field.name.replace('_', '-')}"
        command = click.option(name, help=f"{comment[0].upper()}{comment[1:]}.{shown}", **option)(command)
    return command


@cli.command()
@click.argument("files", nargs=-1, metavar="MODEL.h5... STRUCTURE")
@click.option("-o", "--output", default="md", show_default=True, metavar="DIR", help="Run folder.")
@click.option(
    "--resume", is_flag=True, help="Continue the run in DIR; only length and limits may be changed."
)
@click.option("--overwrite", is_flag=True, help="Replace the run in DIR.")
@device_option
@_dynamics_options
def md(files, output, resume, overwrite, device, **options) -> None:
    """Molecular dynamics of STRUCTURE with MODEL.h5, or with several.

    Several models are a committee. STRUCTURE is any file that ASE reads, or a data set. The run folder gets
    trajectory.traj (for ASE), thermo.csv, restart.h5 and, at the end, thermo.png, a picture of the csv. A run
    that was stopped or killed goes on with --resume, to the last bit as if it had not been; restart.h5 is
    written every 5 s, and what a kill -9 took since then is done again. Passing a limit ends it with exit
    status 2.
    """
    _one_of(resume, overwrite)
    if len(files) < 2 and not (resume and not files):
        raise click.UsageError("expected one model or more and a structure: eqpot md MODEL.h5 STRUCTURE")
    given = {key: value for key, value in options.items() if value is not None}
    config = None if resume else DynamicsConfig(**given)

    from eqpot.md import Simulation

    models, structure = files[:-1], files[-1] if files else None
    if resume:
        simulation = Simulation.resume(output, models, structure, device, **given)
    else:
        command = shlex.join(["eqpot", *sys.argv[1:]])
        simulation = Simulation.start(config, models, structure, output, overwrite, command, device)
    _simulate(simulation)


def _simulate(simulation) -> None:
    from eqpot.md import LOG, PICTURE, TRAJECTORY, LimitPassed
    from eqpot.printing import console
    from eqpot.progress import StepBar, StepLines

    terminal = console()
    for line in simulation.warnings():
        say(f"warning: {line}")
    config, resume = simulation.config, f"eqpot md --resume -o {shlex.quote(str(simulation.folder))}"
    if simulation.finished:
        if not (simulation.folder / PICTURE).exists():  # killed before it was drawn
            simulation.draw()
        longer = "" if config.end_temperature else f"; to go on: {resume} --length LENGTH, longer than that"
        say(f"nothing was done, the run ended at step {simulation.step}{longer}")
        return
    say(_about(simulation))

    def stop() -> None:
        if simulation.stopping:  # who asks again does not want to wait
            raise KeyboardInterrupt
        simulation.stop()

    bar = StepBar(simulation, terminal) if terminal.is_terminal else StepLines()
    try:
        with answering(stop), bar as watch:
            ended = simulation.run(watch)
    except LimitPassed:
        simulation.draw()
        raise
    simulation.draw()
    if not ended:
        say(f"stopped at step {simulation.step}; continue with: {resume}")
        raise KeyboardInterrupt
    say(*filter(None, [simulation.lost_energy()]))
    log, folder = simulation.log(), simulation.folder
    text = f"done: {simulation.time:g} ps; mean temperature {log['temperature_K'].mean():.1f} K"
    if simulation.atoms.pbc.all():
        text += f", volume {log['volume_A3'].mean():.1f} Å³, pressure {log['pressure_bar'].mean():.0f} bar"
    say(text, f"trajectory: {folder / TRAJECTORY}, log: {folder / LOG}, picture: {folder / PICTURE}")


def _about(simulation) -> str:
    """What is about to be done."""
    config, atoms = simulation.config, simulation.atoms
    kind = config.ensemble.upper()
    if config.ensemble == "nvt":
        kind += f" ({'Langevin' if config.thermostat == 'langevin' else 'Nosé-Hoover chain'})"
    to = f" to {config.end_temperature:g}" if config.end_temperature else ""
    pressure = f", {config.pressure:g} bar" if config.ensemble == "npt" else ""
    return (
        f"{counted(len(atoms), 'atom')}, {kind}, {config.temperature:g}{to} K{pressure}, "
        f"{counted(config.steps - simulation.step, 'step')} of {config.timestep:g} fs"
        f"{f' from step {simulation.step}' if simulation.step else ''}, run folder {simulation.folder}"
    )


@cli.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@frame_index
@device_option
def check(model, structure, index, device) -> None:
    """Check MODEL.h5 on STRUCTURE before a long run.

    STRUCTURE is any file that ASE reads, or a data set. Forces and stress against differences of the energy,
    rotation, order of the atoms, pairs of atoms near the cutoff and close together, energy drift, speed and
    memory. The exit status is 2 where one of them fails.
    """
    from eqpot.check import check, table
    from eqpot.potential import Potential
    from eqpot.printing import busy, show

    potential = Potential.load(model, device)
    atoms, structure = _frame(structure, index, potential)
    with busy("checking"):
        findings = list(check(potential, atoms))
    show(table(findings, f"{model} on {structure}, {counted(len(atoms), 'atom')}"))
    judged = [finding for finding in findings if finding.limit is not None]
    failed = [finding for finding in judged if not finding.passed]
    if failed:
        remedies = "".join(f"; {text}" for text in sorted({finding.remedy for finding in failed} - {""}))
        raise UserError(
            f"{model}: {len(failed)} of {len(judged)} checks failed on {structure}, see the table{remedies}"
        )


@cli.command("inspect")
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@click.option(
    *("-o", "--output"),
    metavar="FILE.html",
    help="The report. [report.html, unless --text or --json is given]",
)
@click.option("--text", is_flag=True, help="Print the numbers as tables.")
@click.option("--json", "json_file", metavar="FILE", help="Write the numbers as JSON.")
@frame_index
@click.option("--overwrite", is_flag=True, help="Replace the report, and FILE.")
def inspect_(model, structure, output, text, json_file, index, overwrite) -> None:
    """What each tensor product of MODEL.h5 does in STRUCTURE.

    STRUCTURE is any file that ASE reads, or a data set. For every path of every block: how large its messages
    are, its share of the energy (the shares and a rest sum to it), what happens when it is switched off, what
    it costs; and how well each block keeps the symmetry. The report, an HTML page that needs no network,
    shows all of it on the structure.
    """
    from eqpot.evaluate import write_json
    from eqpot.files import check_output
    from eqpot.inspect import inspect_structure, tables, to_json
    from eqpot.potential import Potential
    from eqpot.printing import busy, show

    if output is None and not text and json_file is None:
        output = "report.html"
    if output is not None:
        check_output(output, overwrite)
        from eqpot.report import write_report
    if json_file is not None:
        check_output(json_file, overwrite)
    potential = Potential.load(model)
    atoms, structure = _frame(structure, index, potential)
    with busy("inspecting"):
        try:
            found = inspect_structure(potential, atoms, structure)
        except UserError as e:
            raise UserError(f"{structure}: {e}") from e
    if text:
        show(*tables(found))
    if json_file is not None:
        write_json(json_file, to_json(found))
        say(f"wrote {json_file}")
    if output is not None:
        write_report(found, output)
        say(f"wrote {output}")


@cli.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", required=False, metavar="[STRUCTURE]")
@frame_index
def explain(model, structure, index) -> None:
    """MODEL.h5 as a list of steps: shapes, formulas, weights.

    With STRUCTURE, any file that ASE reads or a data set, also the operations and bytes of a force call, and
    where they go.
    """
    from eqpot.explain import computation, cost
    from eqpot.potential import Potential
    from eqpot.printing import show

    _check_index(structure, index)
    potential = Potential.load(model)
    shown = [computation(potential)]
    if structure is not None:
        atoms, structure = _frame(structure, index, potential)
        shown.append(cost(potential, structure, len(atoms), len(potential.graph(atoms).senders)))
    show(*shown)


@cli.command()
@click.argument("model", required=False, metavar="[MODEL.h5]")
@click.argument("structure", required=False, metavar="[STRUCTURE]")
@click.option("--threads", metavar="N,N,...", help="Numbers of threads. [1 and all cores]")
@click.option(
    "--seconds", type=Finite(min=0, max=86400), default=3.0, show_default=True, help="For each time."
)
@click.option("--training", is_flag=True, help="Training steps on the ethanol sample, too.")
@frame_index
@click.option("--json", "json_file", metavar="FILE", help="Write the times as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@device_option
def bench(model, structure, threads, seconds, training, index, json_file, overwrite, device) -> None:
    """How fast force calls are on this machine.

    With MODEL.h5 on STRUCTURE, any file that ASE reads or a data set. Without a structure, on a molecule and
    two boxes of water; without a model too, with an untrained potential of the default settings.
    """
    from eqpot import bench
    from eqpot.backend import resolve
    from eqpot.files import check_output
    from eqpot.potential import Potential
    from eqpot.printing import show
    from eqpot.threads import most_threads

    _check_index(structure, index)
    if json_file is not None:
        check_output(json_file, overwrite)
    device = resolve(device)
    potential = None if model is None else Potential.load(model, device)
    if structure is None:
        systems = bench.structures()
    else:
        atoms, structure = _frame(structure, index, potential)
        systems = {structure: atoms}
    if potential is not None and structure is None:
        known = set(potential.species)
        systems = {name: atoms for name, atoms in systems.items() if known.issuperset(atoms.numbers.tolist())}
        if not systems:
            raise UserError(f"{model}: expected a STRUCTURE too, since the model knows no H and O")
    counts = _threads(threads, most_threads())
    rows = bench.force_calls(potential, systems, counts, seconds, device)
    if training:
        rows += bench.training_steps(counts, seconds, device)
    about = bench.machine(device)
    show(bench.table(rows, about))
    if json_file is not None:
        bench.write_json(json_file, rows, about)
        say(f"wrote {json_file}")


def _frame(structure: str, index: int, potential) -> tuple[Any, str]:
    """One frame of a file as ase.Atoms, such as the potential takes, and what to call it."""
    from eqpot.trajectory import read_frame

    atoms, name = read_frame(structure, index), structure if index == -1 else f"{structure}, frame {index}"
    potential.check(atoms, name)
    return atoms, name


def _check_index(structure: str | None, index: int) -> None:
    if structure is None and index != -1:
        raise click.UsageError("--index: expected a STRUCTURE, too, found none")


def _threads(given: str | None, available: int) -> list[int]:
    if given is None:
        return sorted({1, available})
    try:
        counts = [int(part) for part in given.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= available for count in counts):
        raise UserError(f"--threads: expected numbers from 1 to {available}, found {given!r}")
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 2 after an error told in one line, 130 after a signal."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    asked: list[bool] = []

    def stop() -> None:
        asked.append(True)
        interrupt()

    with answering(stop), _streams() as (out, _):
        try:
            status = _run([word for word in words if word != "--debug"], debug, asked)
            out.flush()
        except KeyboardInterrupt:
            status = 130
        if out.fault is not None and status == 0:
            _complain(f"standard output: cannot be written: {out.fault}; the work itself is done")
            status = 2
    return status


@contextmanager
def _streams() -> Iterator[tuple["_Listened", "_Listened"]]:
    """Standard output and error that stop no work.

    One that was closed (`>&-`) leads nowhere: the next file to be opened would take its number, and get what
    libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout, sys.stderr = (_Listened(nowhere if stream is None else stream) for stream in before)
        try:
            yield sys.stdout, sys.stderr
        finally:
            sys.stdout, sys.stderr = before


class _Listened:
    """A stream that may be closed at the other end, as by `| head`, or full, and may lack a character.

    The work goes on, unheard; `fault` says what was wrong, if it was not that nobody listens.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.fault: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._try(self._stream.write, text) or 0
        except UnicodeEncodeError:  # no Å in ASCII
            encoding = self._stream.encoding
            return self._try(self._stream.write, text.encode(encoding, "replace").decode(encoding)) or 0

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable, *arguments: str) -> Any:
        try:
            return action(*arguments)
        except OSError as e:
            if not isinstance(e, BrokenPipeError):
                self.fault = e.strerror
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _run(arguments: list[str], debug: bool, asked: Sequence[bool] = ()) -> int:
    """asked: not empty once a stop was asked for, of which modules being imported may make another error."""
    try:
        return cli.main(arguments, prog_name="eqpot", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        return 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.Abort:
        return 130
    except Exception as e:
        if asked and not isinstance(e, UserError | OSError | MemoryError | click.ClickException):
            return 130
        if debug:
            traceback.print_exc()
        _complain(_one_line(e))
        return 2


def _complain(text: str) -> None:
    print(f"error: {plain(text)}", file=sys.stderr, flush=True)


LONGEST = 4000  # characters of an error; whole files have been mistaken for names


def _one_line(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        help_line = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        text = error.format_message() + help_line
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error})" if str(error) else "out of memory"
    elif isinstance(error, RecursionError):
        text = "something is nested too deeply (RecursionError); --debug shows where"
    else:
        what = f"{type(error).__name__}: {error}"
        text = f"internal error ({what}); please report it; --debug shows the traceback"
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
