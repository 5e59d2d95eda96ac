"""`eqpot md`."""

import shlex
import sys

import click

from eqpot.commands.options import device_option, one_of, settings_options
from eqpot.config import DynamicsConfig
from eqpot.stops import answering
from eqpot.words import counted, say


@click.command()
@click.argument("files", nargs=-1, metavar="MODEL.h5... STRUCTURE")
@click.option("-o", "--output", default="md", show_default=True, metavar="DIR", help="Run folder.")
@click.option(
    "--resume", is_flag=True, help="Continue the run in DIR; only length and limits may be changed."
)
@click.option("--overwrite", is_flag=True, help="Replace the run in DIR.")
@device_option
@settings_options(DynamicsConfig)
def md(files, output, resume, overwrite, device, **options) -> None:
    """Molecular dynamics of STRUCTURE with MODEL.h5, or with several.

    Several models are a committee. STRUCTURE is any file that ASE reads, or a data set. The run folder gets
    trajectory.traj (for ASE), thermo.csv, restart.h5 and, at the end, thermo.png, a picture of the csv. A run
    that was stopped or killed goes on with --resume, to the last bit as if it had not been; restart.h5 is
    written every 5 s, and what a kill -9 took since then is done again. Passing a limit ends it with exit
    status 2.
    """
    one_of(resume, overwrite)
    if len(files) < 2 and not (resume and not files):
        raise click.UsageError("expected one model or more and a structure: eqpot md MODEL.h5 STRUCTURE")
    given = {key: value for key, value in options.items() if value is not None}
    config = None if resume else DynamicsConfig(**given)

    from eqpot.dynamics.simulation import Simulation

    models, structure = files[:-1], files[-1] if files else None
    if resume:
        simulation = Simulation.resume(output, models, structure, device, **given)
    else:
        command = shlex.join(["eqpot", *sys.argv[1:]])
        simulation = Simulation.start(config, models, structure, output, overwrite, command, device)
    _simulate(simulation)


def _simulate(simulation) -> None:
    from eqpot.commands.progress import StepBar, StepLines
    from eqpot.dynamics.simulation import LOG, PICTURE, TRAJECTORY, LimitPassed
    from eqpot.printing import console

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
    from eqpot.dynamics.limits import deviation

    config, atoms = simulation.config, simulation.atoms
    kind = config.ensemble.upper()
    if config.ensemble == "nvt":
        kind += f" ({'Langevin' if config.thermostat == 'langevin' else 'Nosé-Hoover chain'})"
    to = f" to {config.end_temperature:g}" if config.end_temperature else ""
    pressure = f", {config.pressure:g} bar" if config.ensemble == "npt" else ""
    models = ""
    if (count := len(simulation.sources.models)) > 1 and simulation.step == 0:
        models = f", {count} models whose forces deviate by up to {deviation(atoms):.3g} eV/Å at the start"
    return (
        f"{counted(len(atoms), 'atom')}, {kind}, {config.temperature:g}{to} K{pressure}{models}, "
        f"{counted(config.steps - simulation.step, 'step')} of {config.timestep:g} fs"
        f"{f' from step {simulation.step}' if simulation.step else ''}, run folder {simulation.folder}"
    )
