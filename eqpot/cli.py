"""The command line. Modules that take long to import are imported by the command that needs them."""

import dataclasses
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

import click

from eqpot.config import DynamicsConfig
from eqpot.errors import UserError
from eqpot.words import counted

device_option = click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if one can be used.",
)
frame_index = click.option(
    "--index",
    type=int,
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("--n-train", type=int, metavar="N", help="Frames to train on, drawn by the seed.")
@click.option("--n-valid", type=int, metavar="N", help="Frames to validate on, drawn by the seed.")
@click.option("--config", "settings", metavar="FILE.toml", help="Settings; see --show-config.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="One setting, repeatable.")
@click.option("-o", "--output", default="run", show_default=True, metavar="DIR", help="Run folder.")
@click.option("--max-epochs", type=int, metavar="N", help="Stop after N epochs.")
@click.option(
    "--max-time",
    metavar="TIME",
    help="Stop after TIME (seconds, or 90s, 45m, 2h), in which compiling counts; the rate falls to 0.",
)
@click.option("--seed", type=int, metavar="N", help="Of everything random.")
@click.option("--resume", is_flag=True, help="Continue the run in DIR; only its stops may be changed.")
@click.option("--overwrite", is_flag=True, help="Replace the run in DIR.")
@click.option("--show-config", is_flag=True, help="Print all settings as TOML, and do nothing else.")
@device_option
def fit(data, valid, settings, overrides, output, resume, overwrite, show_config, device, **options) -> None:
    """Train a potential on DATA.h5 (made by `eqpot data convert`).

    The run folder gets model.h5 (best by validation force RMSE), checkpoint.h5, log.csv, config.toml and
    learning_curve.png.
    """
    from eqpot.config import Config, parse_setting, read_toml

    _one_of(resume, overwrite)
    config = Config()
    if resume:
        from eqpot.fit import Trainer, checkpoint_of

        config = Config.from_dict(checkpoint_of(output)[0]["config"])
    if settings is not None:
        Config.from_toml(settings)  # so that an error names the file
        config = config.replace(read_toml(settings))
    for table, key, value in map(parse_setting, overrides):
        config = config.replace({table: {key: value}})
    config = config.replace({"train": {key: value for key, value in options.items() if value is not None}})
    if show_config:
        click.echo(config.to_toml(), nl=False)
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
    from rich.console import Console

    from eqpot.evaluate import tables
    from eqpot.fit import MODEL, STOPS
    from eqpot.progress import Lines, Live

    console = Console(highlight=False, soft_wrap=True)
    for line in trainer.warnings():
        console.print(f"warning: {line}", markup=False)
    console.print(summary(trainer), markup=False)
    resume = f"eqpot fit --resume -o {shlex.quote(str(trainer.folder))}"
    ended = trainer.finished()  # before a resume
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch queue's way of saying Ctrl-C
    try:
        with Live(trainer, console) if console.is_terminal and not ended else Lines() as watch:
            reason = trainer.run(watch)
    except KeyboardInterrupt:
        if trainer.rows:
            trainer.write_curve()
        console.print(f"stopped in epoch {trainer.state.epoch + 1}; continue with: {resume}", markup=False)
        raise
    trainer.write_curve()
    model = trainer.folder / MODEL
    if ended:
        stop = next(key for key in STOPS if key in ended)
        option = STOP_OPTIONS.get(stop, f"--set train.{stop}=VALUE")
        console.print(
            f"nothing was trained, the run had already ended: {ended}; to go on, change that limit: "
            f"{resume} {option}",
            markup=False,
        )
    else:
        console.print(f"done: {reason}; best epoch {trainer.state.best_epoch}", markup=False)
    for table in tables(trainer.report(), f"errors on the {counted(len(trainer.valid), 'validation frame')}"):
        console.print(table)
    console.print(f"model: {model}\nevaluate it: eqpot eval {shlex.quote(str(model))} DATA.h5", markup=False)


def summary(trainer) -> str:
    """What is about to be trained, on what."""
    train, valid, model = trainer.train, trainer.valid, trainer.config.model
    return (
        f"{counted(len(train), 'training frame')}, {counted(len(valid), 'validation frame')}, "
        f"{trainer.potential.mean_neighbours:.1f} neighbours per atom within {model.cutoff:g} Å\n"
        f"{len(trainer.weights)} parameters ({model.symmetry}, l_max {model.l_max}, "
        f"{counted(model.blocks, 'block')}, {model.features} features, {trainer.config.train.dtype}), "
        f"run folder {trainer.folder}" + "".join(f"\nnote: {note}" for note in trainer.notes())
    )


@cli.command("eval")
@click.argument("model", metavar="MODEL.h5")
@click.argument("data", metavar="DATA.h5")
@click.option("--json", "json_file", metavar="FILE", help="Write the errors as JSON.")
@click.option("--plots", metavar="DIR", help="Draw predicted against reference values.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, and the pictures in DIR.")
@device_option
def evaluate_(model, data, json_file, plots, overwrite, device) -> None:
    """Errors of MODEL.h5 on the labelled frames of DATA.h5."""
    from rich.console import Console

    from eqpot.data import LABELS, read_dataset
    from eqpot.evaluate import evaluate, tables, write_json
    from eqpot.files import check_folder, check_output
    from eqpot.potential import Potential

    if json_file is not None:
        check_output(json_file, overwrite)
    if plots is not None:
        check_folder(plots, [f"{label}.png" for label in LABELS], overwrite)
    console = Console(highlight=False, soft_wrap=True)
    potential = Potential.load(model, device)
    dataset = read_dataset(data)
    content, prediction, warning = evaluate(potential, dataset)
    if warning:
        console.print(f"warning: {warning}", markup=False)
    if potential.provenance.get("note"):
        console.print(f"note: {potential.provenance['note']}", markup=False)
    for table in tables(content, f"errors on the {counted(len(dataset), 'frame')} of {data}"):
        console.print(table)
    if json_file is not None:
        write_json(json_file, content)
        console.print(f"wrote {json_file}", markup=False)
    if plots is not None:
        from eqpot.plots import parity

        for path in parity(dataset, prediction, plots):
            console.print(f"wrote {path}", markup=False)


@cli.command()
@click.argument("model", metavar="MODEL.h5")
def info(model) -> None:
    """Settings, parameters and origin of MODEL.h5."""
    from ase.data import chemical_symbols

    from eqpot.potential import Potential

    potential = Potential.load(model)
    click.echo(potential.config.to_toml())
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
    for key, value in rows.items():
        click.echo(f"{key:<{width}}  {value}")


@cli.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@click.option(
    *("-o", "--output"), default="relaxed.extxyz", show_default=True, metavar="FILE", help="The result."
)
@click.option(
    "--fmax",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Longest force left, eV/Å.",
)
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="At most.")
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
    """Relax STRUCTURE, any file that ASE reads or a data set, with MODEL.h5.

    Writes what was reached to FILE, in the format that its name tells, also after Ctrl-C. The exit status is
    2 where more steps would be needed.
    """
    from eqpot.calculator import EqpotCalculator
    from eqpot.files import check_structure, write_structure
    from eqpot.potential import Potential
    from eqpot.relax import Step, relax

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
        click.echo("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, columns.values(), strict=True)))

    def show(step: Step) -> None:
        found.append(step)
        more = (f"{step.stress:.3e}", f"{step.volume:.3f}") if cell else ()
        row(f"{step.number}", f"{step.energy:.6f}", f"{step.force:.5f}", *more)

    row(*columns)
    try:
        reached = relax(atoms, fmax, steps, cell, optimizer, show)
    except UserError as e:
        raise UserError(f"{structure}: {e}") from e
    except KeyboardInterrupt:
        write_structure(output, atoms)
        click.echo(f"wrote {output}, where step {found[-1].number if found else 0} had led")
        raise
    write_structure(output, atoms)
    click.echo(f"wrote {output}")
    if not reached:
        raise UserError(
            f"{structure}: not relaxed after {counted(steps, 'step')}: expected no force above {fmax:g} eV/Å"
            f"{' and as little stress' if cell else ''}, found {found[-1].force:.4g} eV/Å; "
            f"go on from {output} with more --steps"
        )


def _dynamics_options(command: Callable) -> Callable:
    """An option for each setting of DynamicsConfig, None where not given."""
    for field in reversed(dataclasses.fields(DynamicsConfig)):
        comment, choices = field.metadata["comment"], field.metadata["choices"]
        kind = click.Choice(choices) if choices else {int: int, str: str}.get(field.type, float)
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
    """Molecular dynamics of STRUCTURE with MODEL.h5, or several: a committee.

    STRUCTURE is any file that ASE reads, or a data set. The run folder gets trajectory.traj (for ASE),
    thermo.csv, restart.h5 and, at the end, thermo.png, a picture of the csv. A run that was stopped or killed
    goes on with --resume, to the last bit as if it had not been; restart.h5 is written every 5 s, and what a
    kill -9 took since then is done again. Passing a limit ends it with exit status 2.
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
    from rich.console import Console

    from eqpot.md import LOG, PICTURE, TRAJECTORY, LimitPassed
    from eqpot.progress import StepBar, StepLines

    console = Console(highlight=False, soft_wrap=True)
    for line in simulation.warnings():
        console.print(f"warning: {line}", markup=False)
    config, resume = simulation.config, f"eqpot md --resume -o {shlex.quote(str(simulation.folder))}"
    if simulation.finished:
        if not (simulation.folder / PICTURE).exists():  # killed before it was drawn
            simulation.draw()
        longer = "" if config.end_temperature else f"; to go on: {resume} --length LENGTH, longer than that"
        console.print(f"nothing was done, the run ended at step {simulation.step}{longer}", markup=False)
        return
    console.print(_about(simulation), markup=False)

    def stop(*_) -> None:
        simulation.stop()
        for number in before:
            signal.signal(number, signal.default_int_handler)  # who asks again does not want to wait

    # SIGTERM is a batch queue's way of saying Ctrl-C.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with StepBar(simulation, console) if console.is_terminal else StepLines() as watch:
            ended = simulation.run(watch)
    except LimitPassed:
        simulation.draw()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    simulation.draw()
    if not ended:
        console.print(f"stopped at step {simulation.step}; continue with: {resume}", markup=False)
        raise KeyboardInterrupt
    log, folder = simulation.log(), simulation.folder
    text = f"done: {simulation.time:g} ps; mean temperature {log['temperature_K'].mean():.1f} K"
    if simulation.atoms.pbc.all():
        text += f", volume {log['volume_A3'].mean():.1f} Å³, pressure {log['pressure_bar'].mean():.0f} bar"
    console.print(
        f"{text}\ntrajectory: {folder / TRAJECTORY}, log: {folder / LOG}, picture: {folder / PICTURE}",
        markup=False,
    )


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
    """Ask what to ask of MODEL.h5 before a long run of STRUCTURE, any file that ASE reads or a data set.

    Forces and stress against differences of the energy, rotation, order of the atoms, pairs of atoms near the
    cutoff and close together, energy drift, speed and memory. The exit status is 2 where one of them fails.
    """
    from rich.console import Console

    from eqpot.check import check, table
    from eqpot.potential import Potential

    potential = Potential.load(model, device)
    atoms, structure = _frame(structure, index, potential)
    console = Console(highlight=False, soft_wrap=True)
    with console.status("checking"):
        findings = list(check(potential, atoms))
    console.print(table(findings, f"{model} on {structure}, {counted(len(atoms), 'atom')}"))
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
    """What each of MODEL.h5's tensor products does in STRUCTURE, any file that ASE reads or a data set.

    For every path of every block: how large its messages are, its share of the energy (the shares and a rest
    sum to it), what happens when it is switched off, what it costs; and how well each block keeps the
    symmetry. The report, an HTML page that needs no network, shows all of it on the structure.
    """
    from rich.console import Console

    from eqpot.evaluate import write_json
    from eqpot.files import check_output
    from eqpot.inspect import inspect_structure, tables, to_json
    from eqpot.potential import Potential

    if output is None and not text and json_file is None:
        output = "report.html"
    if output is not None:
        check_output(output, overwrite)
        from eqpot.report import write_report
    if json_file is not None:
        check_output(json_file, overwrite)
    potential = Potential.load(model)
    atoms, structure = _frame(structure, index, potential)
    console = Console(highlight=False, soft_wrap=True)
    with console.status("inspecting"):
        try:
            found = inspect_structure(potential, atoms, structure)
        except UserError as e:
            raise UserError(f"{structure}: {e}") from e
    if text:
        for table in tables(found):
            console.print(table)
    if json_file is not None:
        write_json(json_file, to_json(found))
        console.print(f"wrote {json_file}", markup=False)
    if output is not None:
        write_report(found, output)
        console.print(f"wrote {output}", markup=False)


@cli.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", required=False, metavar="[STRUCTURE]")
@frame_index
def explain(model, structure, index) -> None:
    """MODEL.h5 as a computation, step by step: shapes, formulas, weights.

    With STRUCTURE, any file that ASE reads or a data set, also the operations and bytes of a force call, and
    where they go.
    """
    from rich.console import Console

    from eqpot.explain import computation, cost
    from eqpot.potential import Potential

    _check_index(structure, index)
    potential = Potential.load(model)
    shown = [computation(potential)]
    if structure is not None:
        atoms, structure = _frame(structure, index, potential)
        shown.append(cost(potential, structure, len(atoms), len(potential.graph(atoms).senders)))
    for table in shown:
        Console(highlight=False, soft_wrap=True).print(table)


@cli.command()
@click.argument("model", required=False, metavar="[MODEL.h5]")
@click.argument("structure", required=False, metavar="[STRUCTURE]")
@click.option("--threads", metavar="N,N,...", help="Numbers of threads. [1 and all cores]")
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=3.0, show_default=True, help="For each time."
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
    from rich.console import Console

    from eqpot import bench
    from eqpot.backend import resolve
    from eqpot.files import check_output
    from eqpot.potential import Potential
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
    Console(highlight=False, soft_wrap=True).print(bench.table(rows, about))
    if json_file is not None:
        bench.write_json(json_file, rows, about)
        click.echo(f"wrote {json_file}")


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
    """Run a command and return the exit status: 0, 2 after an error told in one line, 130 after Ctrl-C."""
    stdout, sys.stdout = sys.stdout, _Listened(sys.stdout)
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    finally:
        sys.stdout = stdout


class _Listened:
    """A standard output that may be closed at the other end, as by `| head`: the work goes on, unheard."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._try(self._stream.write, text) or 0

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable, *arguments: str) -> Any:
        try:
            return action(*arguments)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _main(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        return cli.main(arguments, prog_name="eqpot", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return 2
    except click.exceptions.Exit as e:
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (UserError, click.ClickException, OSError) as e:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {_one_line(e)}", err=True)
        return 2


def _one_line(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        help_line = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        text = error.format_message() + help_line
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return re.sub(r"\s*\n\s*", " ", text)
