"""What a user sees while a potential is trained or atoms move: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eqpot.runs import Watch

if TYPE_CHECKING:
    from eqpot.dynamics.simulation import Simulation
    from eqpot.training.trainer import Trainer

WIDTH = 9  # of a column: four digits, point and exponent
SHOWN = "errors shown: validation RMSE of forces (F), energy per atom (E) and, where labelled, stress (S)"


def errors(row: Mapping[str, float | None]) -> list[tuple[str, str, float]]:
    """Validation RMSE in a row of log.csv, where there is one: name, unit, value in thousandths."""
    return [
        (name, unit, 1000 * row[key])
        for key, name, unit in (
            ("valid_forces_rmse", "F", "meV/Å"),
            ("valid_energy_per_atom_rmse", "E", "meV/atom"),
            ("valid_stress_rmse", "S", "meV/Å³"),
        )
        if row[key] is not None
    ]


class Lines(Watch):
    """A table with a line per epoch; its head comes with the first one."""

    headed = told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        pass

    def epoch_done(self, trainer: Trainer) -> None:
        row = trainer.rows[-1]
        cells = {
            "epoch": f"{row['epoch']}",
            "time, s": f"{row['time']:.1f}",
            "rate": f"{row['learning_rate']:.3g}",
            "loss": f"{row['loss']:.4g}",
            **{f"{name}, {unit}": f"{value:.4g}" for name, unit, value in errors(row)},
        }
        if not self.headed:
            head = "  ".join(f"{title:>{WIDTH}}" for title in cells)
            print(f"{SHOWN}; * marks the best F so far\n{head}")
            self.headed = True
        best = " *" if trainer.state.best_epoch == row["epoch"] else ""
        line = "  ".join(f"{cell:>{max(WIDTH, len(title))}}" for title, cell in cells.items())
        print(line + best, flush=True)
        if not self.told and (outlook := trainer.outlook()):
            print(outlook, flush=True)
            self.told = True


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(bar_width=10), TimeRemainingColumn()
    return Progress(*columns, console=console, refresh_per_second=4)


class Live(Watch):
    """A bar over the epochs, or over the time of a timed run, with current errors, rate and speed."""

    def __init__(self, trainer: Trainer, console: Console):
        self.timed = math.isfinite(trainer.config.train.max_seconds)
        total = trainer.config.train.max_seconds if self.timed else trainer.config.train.max_epochs or None
        self.bar = _bar(console)
        self.task = self.bar.add_task("starting", total=total)
        self.errors, self.told = "", False
        self.speed, self.last = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        self.bar.console.print(SHOWN)
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def step_done(self, trainer: Trainer, fraction: float, losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        speed = trainer.batch_size / (now - self.last)
        self.speed = 0.95 * self.speed + 0.05 * speed if self.speed else speed
        self.last = now
        done = trainer.elapsed() if self.timed else trainer.state.epoch + fraction
        text = (
            f"epoch {trainer.state.epoch + 1}: {self.errors or 'loss {:.3g}'.format(losses['loss'])}, "
            f"rate {trainer.rate():.2g}, {self.speed:.3g} frames/s"
        )
        self.bar.update(self.task, completed=done, description=text)

    def epoch_done(self, trainer: Trainer) -> None:
        self.errors = ", ".join(f"{name} {x:.3g} {unit}" for name, unit, x in errors(trainer.rows[-1]))
        if not self.told and (outlook := trainer.outlook()):
            self.bar.console.print(outlook)
            self.told = True
        self.last = time.monotonic()


def _time(simulation: Simulation) -> str:
    """ps, with as many digits as tell one step from the next."""
    digits = len(f"{simulation.config.timestep % 1:.6f}".rstrip("0")) - 2
    return f"{simulation.time:.{3 + digits}f}"


class Pace:
    """How fast a simulation is, its first step here left out: that one may compile."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def __call__(self, simulation: Simulation) -> float | None:
        """ns/day, None at the first call."""
        now = time.monotonic()
        if self.first is None:
            self.first = simulation.step, now
            return None
        step, began = self.first
        return (simulation.step - step) * simulation.config.timestep * 1e-6 * 86400 / (now - began)


class StepLines(Watch):
    """A table of the run with some twenty lines; its head comes with the first one."""

    COUNT = 20

    def __init__(self) -> None:
        self.pace = Pace()
        self.shown: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        pass

    def step_done(self, simulation: Simulation) -> None:
        part = simulation.step * self.COUNT // simulation.config.steps
        if part == self.shown:
            return
        pace, drift = self.pace(simulation), simulation.drift()
        cells = {
            "time, ps": _time(simulation),
            "temperature, K": f"{simulation.temperature():.1f}",
            "potential, eV": f"{simulation.atoms.get_potential_energy():.4f}",
            "drift, meV/atom": "" if drift is None else f"{1000 * drift:+.3f}",
            "ns/day": "" if pace is None else f"{pace:.3g}",
        }
        if self.shown is None:
            print("  ".join(f"{title:>{WIDTH}}" for title in cells))
        self.shown = part
        line = "  ".join(f"{cell:>{max(WIDTH, len(title))}}" for title, cell in cells.items())
        print(line, flush=True)


class StepBar(Watch):
    """A bar over the steps with temperature, drift of the conserved energy and speed."""

    def __init__(self, simulation: Simulation, console: Console):
        self.bar = _bar(console)
        self.task = self.bar.add_task("starting", total=simulation.config.steps, completed=simulation.step)
        self.pace, self.next = Pace(), 0.0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def step_done(self, simulation: Simulation) -> None:
        if time.monotonic() < self.next and not simulation.finished:
            return
        self.next = time.monotonic() + 0.25
        pace, drift = self.pace(simulation), simulation.drift()
        text = f"{_time(simulation)} ps: {simulation.temperature():4.0f} K"
        if drift is not None:
            text += f", drift {1000 * drift:+.2f} meV/atom"
        if pace is not None:
            text += f", {pace:.3g} ns/day"
        self.bar.update(self.task, completed=simulation.step, description=text)
