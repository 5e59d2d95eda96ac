"""Training: from a data set and a Config to a run folder.

    model.h5            the best weights by validation force RMSE (their moving average)
    checkpoint.h5       everything that the next epoch depends on
    log.csv             a row per epoch
    config.toml         the settings
    learning_curve.png

All randomness (split, initial weights, order of the frames) follows from the seed, so a run repeats bit by
bit; with `max_time` it follows the clock as well. A checkpoint holds the end of an epoch, the last one or,
after a kill, one shortly before it, and resuming from it gives the bits of a run that was never stopped.
"""

import csv
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase.data import chemical_symbols

from eqpot import evaluate
from eqpot.adam import Adam, MovingAverage
from eqpot.backend import moved, resolve, to_device, to_host
from eqpot.config import Config
from eqpot.data import Dataset, first_alike, read_dataset
from eqpot.errors import UserError
from eqpot.files import replacing
from eqpot.frames import Frames, Labels
from eqpot.graph import Batch, shortest_edges
from eqpot.isolated import decide
from eqpot.loss import loss_and_gradient
from eqpot.model import Model
from eqpot.outlook import final_error, limit
from eqpot.potential import MOST_WEIGHT, PROVENANCE, Potential
from eqpot.runs import Hold, beginning, check_hash, check_run, clear_run, read_checkpoint, write_checkpoint
from eqpot.schema import HASH, RANDOM, TABLE, TEXT, Array, Rule, either, integer, number
from eqpot.soap import Soap, matrices
from eqpot.words import counted, duration

MODEL, CHECKPOINT, LOG, SETTINGS, CURVE = (
    "model.h5",
    "checkpoint.h5",
    "log.csv",
    "config.toml",
    "learning_curve.png",
)
FILES = (MODEL, CHECKPOINT, LOG, SETTINGS, CURVE)
ATOMS_A_STEP = 75  # of batches of no given size
FIRST = 0.1  # part of a run after which its end is estimated
FORMAT, VERSION = "eqpot-checkpoint", 2
# What the JSON of a checkpoint holds; the arrays are `_layout`.
CONTENT: Rule = {
    "config": TABLE,
    "state": {
        "rate": number(above=0),
        "epoch": integer(),
        "seconds": number(low=0),
        "best_rmse": either(number(low=0), "infinity", math.inf),
        "best_epoch": integer(),
        "waited": integer(),
    },
    "sources": {
        "data": TEXT,
        "data_hash": HASH,
        "valid_data": TEXT,
        "valid_hash": either(HASH, "nothing", ""),
        "command": TEXT,
    },
    "random": RANDOM,
    "adam_steps": integer(),
    "average_steps": integer(),
    "provenance": PROVENANCE,
}
ERRORS = tuple(
    f"{name}_{kind}" for name in ("energy_per_atom", "forces", "stress") for kind in ("mae", "rmse")
)
COLUMNS = (
    "epoch",
    "time",
    "learning_rate",
    "loss",
    "loss_energy",
    "loss_forces",
    "loss_stress",
    *(f"valid_{name}" for name in ERRORS),
)
# what a resumed run may do differently without being another run
STOPS = ("max_epochs", "max_time", "stop_patience", "min_learning_rate")


@dataclass
class State:
    """Where the run stands, apart from its arrays."""

    rate: float
    epoch: int = 0
    seconds: float = 0.0
    best_rmse: float = math.inf
    best_epoch: int = 0
    waited: int = 0  # epochs since the best one or the last cut of the rate

    def validated(self, rmse: float, patience: float, factor: float) -> bool:
        """End an epoch; cut the rate on a plateau of the validation force RMSE. Is this the best epoch?"""
        self.epoch += 1
        if rmse < self.best_rmse:
            self.best_rmse, self.best_epoch, self.waited = rmse, self.epoch, 0
            return True
        self.waited += 1
        if self.waited > patience:
            self.rate, self.waited = self.rate * factor, 0
        return False


@dataclass
class Sources:
    """What the run is made from: files, their hashes, and which frames were drawn from them."""

    data: str
    data_hash: str
    train: np.ndarray
    valid: np.ndarray
    valid_data: str = ""
    valid_hash: str = ""
    command: str = ""


class Trainer:
    """One run in one folder: `Trainer.start(...)` or `Trainer.resume(...)`, then `run()`.

    device: "cpu", "cuda" or "auto"; where weights, gradients and what they are made from are kept. The same
    bits on one kind of device only.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        sources: Sources,
        train: Dataset,
        valid: Dataset,
        device: str = "cpu",
    ):
        """Draws the frames of `sources` from the two data sets and makes their neighbour lists."""
        self.began = time.monotonic()
        self.config, self.folder, self.sources = config, folder, sources
        train, valid = train.subset(sources.train), valid.subset(sources.valid)
        _require_forces(train, "training")
        _require_forces(valid, "validation")
        self.train = Frames(train, train.species, config.model.cutoff)
        self.valid = Frames(valid, train.species, config.model.cutoff)
        atoms = len(self.train.dataset.numbers) / len(self.train)
        self.batch_size = config.train.batch_size or max(1, round(ATOMS_A_STEP / atoms))
        self.stress = config.loss.stress > 0 and self.train.has_stress
        balanced = config.loss.element_weights == "balanced"
        self.atom_weights = _element_weights(train, balanced)[train.numbers]
        self.potential = Potential.create(
            species=[chemical_symbols[z] for z in train.species],
            seed=config.train.seed,
            dtype=config.train.dtype,
            device=device,
            **config.model.to_dict(),
        )
        self.backend = self.potential.backend
        self.weights = self.potential.params.flat
        self.optimizer = self._optimizer()
        self.average = MovingAverage(self.weights, config.train.ema, self.backend)
        self.best = self.weights.copy()
        self.random = np.random.default_rng([config.train.seed, 1])
        self.state = State(config.train.learning_rate)
        self.within = 0.0  # part of the epoch that is done
        self.rows: list[dict[str, float]] = []
        self.hold = Hold(folder)
        self._kept: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None
        self._saved_best, self._next_save = 0, 0.0
        self._gpu = None
        if self.backend == "cuda":
            from eqpot.gpu_training import GpuSteps

            self._gpu = GpuSteps(self) if GpuSteps.fit(self) else None

    @classmethod
    def start(
        cls,
        config: Config,
        data: str | Path,
        folder: str | Path,
        valid: str | Path | None = None,
        overwrite: bool = False,
        command: str = "",
        device: str = "cpu",
    ) -> Self:
        """A new run; nothing is written before data and settings are found good."""
        device = resolve(device)
        with Hold(folder) as hold:
            check_run(folder, FILES, overwrite)
            train_data = read_dataset(data)
            valid_data = train_data if valid is None else read_dataset(valid)
            isolated = decide(config, train_data)
            if isolated.exact:
                config = config.replace({"model": {"isolated_atoms": True}})
            chosen = choose_frames(config, train_data, None if valid is None else valid_data, isolated.told)
            sources = Sources(os.path.abspath(data), train_data.hash, *chosen, command=command)
            if valid is not None:
                sources.valid_data, sources.valid_hash = os.path.abspath(valid), valid_data.hash
            self = cls(config, Path(folder), sources, train_data, valid_data, device)
            self._fit_statistics(isolated.shifts)
            notes = {"shifts": isolated.note, "note": self._left_open(isolated.shifts)}
            self.potential.provenance.update(self._provenance(train_data) | notes)
            self.hold = hold
            clear_run(hold, FILES, overwrite)
            with beginning(hold, FILES):
                self._keep()
                self._save()
                self._write_settings()
                self._write_log()
        return self

    @classmethod
    def resume(
        cls,
        config: Config,
        folder: str | Path,
        data: str | Path | None = None,
        valid: str | Path | None = None,
        device: str = "cpu",
    ) -> Self:
        """The run of `folder` taken up at its checkpoint.

        `config` may differ from the run's in its stops only; `data` and `valid` may lie elsewhere than they
        did, but must be the same files.
        """
        device, folder = resolve(device), Path(folder)
        path = folder / CHECKPOINT
        with Hold(folder) as hold:
            stored, arrays = checkpoint_of(folder)
            began = Config.from_file(stored["config"])
            if config.model.isolated_atoms == "auto":  # decided as the run began
                config = config.replace({"model": {"isolated_atoms": began.model.isolated_atoms}})
            _only_stops_differ(config, began, path)
            sources = Sources(**stored["sources"], train=arrays["train_frames"], valid=arrays["valid_frames"])
            if valid is not None and not sources.valid_data:
                raise UserError(
                    f"{path}: expected no --valid, since the run split {sources.data}, found {valid}"
                )
            train_data = _same_file(data or sources.data, sources.data_hash, path)
            valid_data = train_data
            if sources.valid_data:
                valid_data = _same_file(valid or sources.valid_data, sources.valid_hash, path)
            _check_drawn(sources.train, train_data, path)
            _check_drawn(sources.valid, valid_data, path)
            self = cls(config, folder, sources, train_data, valid_data, device)
            self.hold = hold
            moments = {f"adam_{name}": x for name, x in self.optimizer.state().items() if name != "steps"}
            for name, array in {"scale": self.potential.scale, **moments}.items():
                if len(arrays[name]) != len(array):
                    raise UserError(
                        f"{path}: {name}: expected {len(array):,} numbers, as settings and elements in "
                        f"training have it, found {len(arrays[name]):,}"
                    )
            rows = _read_log(folder / LOG)
            self.potential.scale[:] = arrays["scale"]
            self.potential.shift[:] = arrays["shift"]
            self.potential.mean_neighbours = float(arrays["mean_neighbours"])
            self.potential.provenance.update(stored["provenance"])
            places = {"weights": self.weights, "best": self.best, "average": self.average.weights}
            for name, place in places.items():
                place[:] = to_device(arrays[name], self.backend)
            self.average.steps = stored["average_steps"]
            moments = {name.removeprefix("adam_"): arrays[name] for name in moments}
            self.optimizer.restore({"steps": stored["adam_steps"], **moments})
            self.random.bit_generator.state = stored["random"]
            self.state = State(**stored["state"])
            self.began -= self.state.seconds
            self.rows = [row for row in rows if row["epoch"] <= self.state.epoch]
            self._write_log()
            if self.state.best_epoch:
                self._write_model()
            self._write_settings()
        return self

    def run(self, watch: "Watch | None" = None) -> str:
        """Train until something says stop; returns what did. Ends with `best` in the potential."""
        with closing(self.hold.take()):
            try:
                return self._run(watch or Watch())
            finally:
                self._save()  # the last whole epoch, whatever ended this one

    def _run(self, watch: "Watch") -> str:
        while not (reason := self.finished()):
            with np.errstate(over="ignore", invalid="ignore"):  # what diverges is named by its loss
                losses = self.epoch(watch)
                errors = self.validate()
            self.state.seconds = self.elapsed()
            rate = self.rate()
            train = self.config.train
            patience = math.inf if self.to_its_end() else train.patience
            if self.state.validated(errors["forces_rmse"], patience, train.factor):
                self.best[:] = self.average.weights
                best = {"epoch": self.state.best_epoch, "valid_forces_rmse": self.state.best_rmse}
                self.potential.provenance.update(best)
            row = {"epoch": self.state.epoch, "time": self.state.seconds, "learning_rate": rate, **losses}
            self.rows.append({**row, **{f"valid_{key}": errors[key] for key in ERRORS}})
            self._extend_log(self.rows[-1])
            self._keep()
            if time.monotonic() >= self._next_save:
                self._save()
            watch.epoch_done(self)
        self.weights[:] = self.best
        return reason

    def epoch(self, watch: "Watch") -> dict[str, float]:
        """One pass over the training frames in random order; returns the mean loss and its terms."""
        order = self.random.permutation(len(self.train))
        size = self.batch_size
        losses, frames = [], []
        self.within = 0.0
        for chosen in (order[k : k + size] for k in range(0, len(order), size)):
            losses.append(self.step(chosen))
            frames.append(len(chosen))
            self.within = sum(frames) / len(order)
            watch.step_done(self, self.within, losses[-1])
            if self.elapsed() >= self.config.train.max_seconds:
                break
        return {key: _mean([row[key] for row in losses], frames) for key in losses[0]}

    def step(self, chosen: np.ndarray) -> dict[str, float]:
        """One step of the optimizer on the frames `chosen`."""
        if self._gpu is not None:
            value, parts, gradient, finite = self._gpu.step(chosen)
        else:
            batch, rows = self.train.batch(chosen)
            batch, labels = moved(batch, self.backend), self.train.labels(chosen, rows).on(self.backend)
            weights = to_device(self.atom_weights[rows], self.backend)
            value, parts, gradient = self.loss_gradient(batch, labels, weights)
            value, parts = float(value), {name: float(part) for name, part in parts.items()}
            finite = math.isfinite(value) and bool(np.isfinite(gradient).all())
            if finite:
                self.optimizer.step(self.weights, gradient, self.rate())
                self.average.update(self.weights)
        if not finite:
            largest = float(np.abs(gradient).max())
            raise self._diverged(f"a loss of {value:g} with a gradient of {largest:g}", chosen)
        return {"loss": value, **{f"loss_{name}": part for name, part in parts.items()}}

    def loss_gradient(
        self, batch: Batch, labels: Labels, atom_weights: np.ndarray
    ) -> tuple[float, dict[str, float], np.ndarray]:
        """Loss, its terms and its gradient by the weights, all where the potential is."""

        def loss(prediction: Labels):
            counts, volumes = batch.atom_counts, batch.volume
            return loss_and_gradient(self.config.loss, prediction, labels, counts, atom_weights, volumes)

        (value, parts, *_), gradient = self.potential.loss_gradient(batch, loss, stress=self.stress)
        return value, parts, gradient

    def arrays(self) -> list[np.ndarray]:
        """The arrays that a step changes."""
        moments = [array for name, array in self.optimizer.state().items() if name != "steps"]
        return [self.weights, self.average.weights, *moments]

    def validate(self) -> dict[str, float | None]:
        """Errors of the averaged weights on the validation frames."""
        trained = self.weights.copy()
        self.weights[:] = self.average.weights
        try:
            errors = evaluate.errors(self.valid.dataset, evaluate.predict(self.potential, self.valid))
        finally:
            self.weights[:] = trained
        if not math.isfinite(errors["forces_rmse"]):
            raise self._diverged(f"a validation force RMSE of {errors['forces_rmse']:g}")
        return errors

    def to_its_end(self) -> bool:
        """Whether the rate falls towards a limit that is known, instead of by plateaus."""
        train = self.config.train
        return train.schedule == "cooldown" and (train.max_epochs > 0 or math.isfinite(train.max_seconds))

    def done(self) -> float:
        """Part of the run that is over, by the nearest limit that the rate falls to; 0 without one."""
        train = self.config.train
        done = self.elapsed() / train.max_seconds
        if self.to_its_end() and train.max_epochs:
            done = max(done, (self.state.epoch + self.within) / train.max_epochs)
        return done

    def rate(self) -> float:
        """The learning rate now: the schedule's, falling to zero over the cooldown before a limit."""
        done, cooldown = self.done(), self.config.train.cooldown
        if done == 0 or cooldown == 0:
            return self.state.rate
        return self.state.rate * min(max((1 - done) / cooldown, 0.0), 1.0)

    def finished(self) -> str:
        """Why training is over; empty while it is not."""
        state, train = self.state, self.config.train
        if 0 < train.max_epochs <= state.epoch:
            return f"max_epochs = {train.max_epochs} reached"
        if self.elapsed() >= train.max_seconds and state.epoch > 0:
            return f"max_time = {train.max_time} reached"
        if train.stop_patience and state.epoch - state.best_epoch >= train.stop_patience:
            return f"no better validation for stop_patience = {train.stop_patience} epochs"
        if state.rate < train.min_learning_rate:
            return f"the learning rate fell below min_learning_rate = {train.min_learning_rate:g}"
        return ""

    def elapsed(self) -> float:
        """Seconds spent on the run, those before a resume included."""
        return time.monotonic() - self.began

    def report(self) -> dict[str, Any]:
        """Errors of the best weights on the validation frames; call it after `run`."""
        return evaluate.report(self.valid.dataset, evaluate.predict(self.potential, self.valid))

    def outlook(self) -> str:
        """What to expect at the end, once a tenth of a run is over whose rate falls to it; else empty."""
        done, cooldown = self.done(), self.config.train.cooldown
        if not (FIRST <= done < 1 - cooldown and self.to_its_end()):
            return ""
        errors = [row["valid_forces_rmse"] for row in self.rows]
        expected = final_error(errors, len(errors) / done, cooldown)
        if expected is None:
            return ""
        low, high = (1000 * error for error in expected)
        return (
            f"estimate: F of {low:.3g} to {high:.3g} meV/Å at the end; twice as many training frames, each "
            f"seen as often, would take {duration(2 * self.elapsed() / done)}"
        )

    def verdict(self) -> str:
        """What limited the fit; call it after `run`."""
        count = min(len(self.train), max(len(self.valid), 20))
        chosen = np.linspace(0, len(self.train) - 1, count).astype(int)
        seen = Frames(self.train.dataset.subset(chosen), self.potential.species, self.config.model.cutoff)
        training = evaluate.errors(seen.dataset, evaluate.predict(self.potential, seen))["forces_rmse"]
        if training is None:
            return ""
        full = self.config.train.learning_rate
        at_full_rate = [row["valid_forces_rmse"] for row in self.rows if row["learning_rate"] == full]
        return (
            f"F {1000 * training:.3g} meV/Å on {counted(count, 'training frame')}: "
            f"{limit(training, self.state.best_rmse, at_full_rate)}"
        )

    def warnings(self) -> list[str]:
        """What is legal but perhaps not meant."""
        lines = [frames.warning() for frames in (self.train, self.valid)]
        if self.config.loss.energy > 0 and not self.train.dataset.known("energy").any():
            lines.append(f"{self.sources.data}: no energies; the potential learns from forces alone")
        return [line for line in lines if line]

    def notes(self) -> list[str]:
        """Where shifts are from and what they are good for, what weights mean, where that is not as usual."""
        provenance, loss = self.potential.provenance, self.config.loss
        weights = ""
        if loss.errors == "root_n" and (loss.energy not in (0, 1) or loss.stress not in (0, 1)):
            weights = (
                "loss.energy and loss.stress weigh errors of energy and virial by sqrt(N); "
                "loss.errors=per_atom makes them weigh errors by atom, as version 0.1 did"
            )
        return [line for line in (provenance.get("shifts"), provenance.get("note"), weights) if line]

    def _left_open(self, shifts: str | Mapping[str, float]) -> str:
        """What fitted shifts are good for, where that is not everything; else empty."""
        known = self.train.dataset.known("energy")
        if shifts != "least_squares" or not known.any():
            return ""
        compositions = self.train.dataset.composition()[known]
        elements, independent = compositions.shape[1], np.linalg.matrix_rank(compositions)
        if independent == elements:
            return ""
        return (
            f"the training frames have {counted(int(independent), 'independent composition')} of {elements} "
            "elements, which leaves the energy of each element open: energies of other compositions mean "
            "nothing, unless train.shifts gives those of isolated atoms"
        )

    def _keep(self) -> None:
        """Remember everything that the next epoch depends on."""
        sources = dataclasses.asdict(self.sources)
        arrays = {
            "train_frames": sources.pop("train"),
            "valid_frames": sources.pop("valid"),
            "weights": self.weights,
            "average": self.average.weights,
            "best": self.best,
            "scale": self.potential.scale,
            "shift": self.potential.shift,
            "mean_neighbours": self.potential.mean_neighbours,
            **{f"adam_{name}": array for name, array in self.optimizer.state().items() if name != "steps"},
        }
        content = {
            "config": self.config.to_dict(),
            "state": dataclasses.asdict(self.state),
            "sources": sources,
            "random": self.random.bit_generator.state,
            "adam_steps": self.optimizer.steps,
            "average_steps": self.average.steps,
            "provenance": dict(self.potential.provenance),
        }
        self._kept = content, {name: np.array(to_host(array)) for name, array in arrays.items()}

    def _save(self) -> None:
        """Write what is kept, and the best weights, where they are not written yet.

        It waits for the disk, and may take a fiftieth of the time: short epochs are saved a few at a time.
        """
        if self._kept is None:
            return
        began = time.monotonic()
        if self.state.best_epoch != self._saved_best:
            self._write_model()
        write_checkpoint(self.folder / CHECKPOINT, FORMAT, VERSION, *self._kept)
        self._kept, end = None, time.monotonic()
        self._next_save = end + 50 * (end - began)

    def _optimizer(self) -> Adam | Soap:
        if self.config.train.optimizer == "soap":
            params = self.potential.params
            return Soap(self.weights, matrices(self.potential.model, params.starts), self.backend)
        return Adam(self.weights, self.config.train.amsgrad, self.backend)

    def _fit_statistics(self, shifts: str | Mapping[str, float]) -> None:
        """Shift and scale of each element and the mean number of neighbours, from the training frames."""
        train, potential = self._for_network(), self.potential
        potential.shift[:] = energy_shifts(train, shifts)
        scale = self.config.train.scale
        if scale == "force_rms":
            known = train.forces[np.isfinite(train.forces)]
            scale = float(np.sqrt(np.mean(known**2))) or 1.0
        potential.scale[:] = scale
        potential.mean_neighbours = max(float(self.train.edges.sum() / len(train.numbers)), 1.0)

    def _for_network(self) -> Dataset:
        """The training frames, their energies and forces less those of ZBL."""
        data, zbl = self.train.dataset, self.potential.zbl
        if zbl is None:
            return data
        energy = None if data.energy is None else data.energy.copy()
        forces = data.forces.copy()
        for k in range(len(data)):
            batch, rows = self.train.batch([k])
            energies, zbl_forces, _ = zbl.run(batch)
            forces[rows] -= zbl_forces
            if energy is not None:
                energy[k] -= energies.sum()
        return dataclasses.replace(data, energy=energy, forces=forces)

    def _provenance(self, data: Dataset) -> dict[str, Any]:
        texts = {k: v for k, v in data.attrs.items() if k in ("source", "level_of_theory") and v}
        return {
            "data": Path(self.sources.data).name,
            "data_hash": self.sources.data_hash,
            "valid": Path(self.sources.valid_data).name if self.sources.valid_data else "",
            "valid_hash": self.sources.valid_hash,
            "n_train": len(self.train),
            "n_valid": len(self.valid),
            **{k: str(v) for k, v in texts.items()},
            "command": self.sources.command,
            "seed": self.config.train.seed,
            "version": version("eqpot"),
            "closest": self._closest(),
            "config": self.config.to_dict(),
        }

    def _closest(self) -> dict[str, float]:
        """The shortest distance between atoms of each two elements within the cutoff of each other, Å."""
        symbols = [chemical_symbols[z] for z in self.potential.species]
        least = np.min(
            [
                shortest_edges(g.edge_vec, g.senders, g.receivers, g.species, len(symbols))
                for g in self.train.graphs
            ],
            axis=0,
        )
        return {
            f"{symbols[a]}-{symbols[b]}": float(least[a, b])
            for a, b in combinations_with_replacement(range(len(symbols)), 2)
            if math.isfinite(least[a, b])
        }

    def _diverged(self, what: str, chosen: np.ndarray | None = None) -> UserError:
        where = "" if chosen is None else f", frames {', '.join(str(k) for k in self.sources.train[chosen])}"
        return UserError(
            f"{self.sources.data}{where}: training diverged in epoch {self.state.epoch + 1}: expected finite "
            f"numbers, found {what}; {self.folder / CHECKPOINT} keeps epoch {self.state.epoch}; "
            "try a lower train.learning_rate"
        )

    def _write_model(self) -> None:
        trained = self.weights.copy()
        self.weights[:] = self.best
        try:
            self.potential.save(self.folder / MODEL)
            self._saved_best = self.state.best_epoch
        finally:
            self.weights[:] = trained

    def _write_settings(self) -> None:
        with replacing(self.folder / SETTINGS) as temporary:
            temporary.write_text(self.config.to_toml())

    def _write_log(self) -> None:
        with replacing(self.folder / LOG) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
            csv.writer(file).writerows(_cells(row) for row in self.rows)

    def _extend_log(self, row: dict[str, Any]) -> None:
        """One more line; a whole new file each epoch would cost more than the epoch, in the end."""
        path = self.folder / LOG
        try:
            with open(path, "a", newline="") as file:
                csv.writer(file).writerow(_cells(row))
        except OSError as e:
            raise UserError(f"{path}: cannot be written: {e.strerror}") from e

    def write_curve(self) -> None:
        """Draw learning_curve.png."""
        from eqpot.plots import learning_curve

        columns = {k: [math.nan if row[k] is None else row[k] for row in self.rows] for k in COLUMNS}
        learning_curve(columns, self.folder / CURVE)


class Watch:
    """What looks on while a Trainer runs; this one only keeps the learning curve drawn."""

    def __init__(self) -> None:
        self.next_drawing = time.monotonic() + 10

    def step_done(self, trainer: Trainer, fraction: float, losses: Mapping[str, float]) -> None:
        """After a step; `fraction` of the epoch is done."""

    def epoch_done(self, trainer: Trainer) -> None:
        """After an epoch; drawing may take a hundredth of the time, and not more often than every 10 s."""
        now = time.monotonic()
        if now >= self.next_drawing:
            trainer.write_curve()
            end = time.monotonic()
            self.next_drawing = end + max(10.0, 100 * (end - now))


def choose_frames(
    config: Config, data: Dataset, valid: Dataset | None, left_out: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of `data` to train on, and of `valid` (None: of `data` too) to validate on, drawn by the seed.

    left_out: frames of `data` that are not drawn. In one file the first frame of every element goes to the
    training side, so that no element is met only in validation, and no frame repeats one of the other side,
    even if there are fewer than `n_valid` then. UserError where there are too few frames.
    """
    if len(left_out):
        kept = np.setdiff1d(np.arange(len(data)), left_out)
        train, other = choose_frames(config, data.subset(kept), valid)
        return kept[train], kept[other] if valid is None else other
    random = np.random.default_rng(config.train.seed)
    n_train, n_valid = config.train.n_train, config.train.n_valid
    order = random.permutation(len(data))
    if valid is not None:
        _at_least(n_train, len(data), "train.n_train", data)
        _at_least(n_valid, len(valid), "train.n_valid", valid)
        other = random.permutation(len(valid))
        return np.sort(order[: n_train or len(data)]), np.sort(other[: n_valid or len(valid)])
    n_valid = n_valid or max(1, round(len(data) / 10))
    _at_least(n_train + n_valid, len(data), "train.n_train + train.n_valid", data)
    n_train = n_train or len(data) - n_valid
    if n_train < 1:
        raise UserError(
            f"{data.path}: no frames are left to train on: expected more than train.n_valid = {n_valid}, "
            f"found {len(data)}"
        )
    kind = first_alike(data)
    place = np.zeros(len(data), int)
    place[kind[order[::-1]]] = np.arange(len(data))[::-1]  # of the first of its kind
    order = order[np.argsort(place[kind[order]], kind="stable")]
    held = data.composition()[order] > 0
    brings_an_element = np.zeros(len(data), bool)
    brings_an_element[held.argmax(axis=0)] = True
    order = np.concatenate([order[brings_an_element], order[~brings_an_element]])
    train, rest = np.split(order, [n_train])
    rest = rest[~np.isin(kind[rest], kind[train])]
    if not len(rest):
        raise UserError(
            f"{data.path}: expected frames to validate on besides the {n_train} to train on, found only "
            "repeats of these; give --valid FILE to validate on them all the same"
        )
    return np.sort(train), np.sort(rest[:n_valid])


def _at_least(wanted: int, found: int, key: str, data: Dataset) -> None:
    if wanted > found:
        raise UserError(
            f"{data.path}: {key}: expected at most the {found} frames of the file, found {wanted}"
        )


def energy_shifts(data: Dataset, shifts: str | Mapping[str, float] = "least_squares") -> np.ndarray:
    """Energy of an atom of each element of `data`, eV, float64 [Z].

    By least squares of the total energies over the compositions, the shortest solution where several fit (one
    composition only), or taken from a table by symbol. Zero where no energy is known.
    """
    if shifts != "least_squares":
        symbols = [chemical_symbols[z] for z in data.species]
        missing = [s for s in symbols if s not in shifts]
        if missing:
            raise UserError(
                f"train.shifts: expected an energy for every element, found none for {missing[0]}"
            )
        return np.array([shifts[s] for s in symbols])
    known = data.known("energy")
    if not known.any():
        return np.zeros(len(data.species))
    return np.linalg.lstsq(data.composition()[known], data.energy[known], rcond=None)[0]


def _element_weights(data: Dataset, balanced: bool) -> np.ndarray:
    """Weight of the force errors by atomic number, float64 [119]; 1 on average over the known forces."""
    weights = np.ones(len(chemical_symbols))
    if balanced:
        numbers = data.numbers[np.isfinite(data.forces).all(axis=1)]
        found, count = np.unique(numbers, return_counts=True)
        weights[found] = len(numbers) / (len(found) * count)
    return weights


def _require_forces(data: Dataset, role: str) -> None:
    if not data.known("forces").any():
        raise UserError(f"{data.path}: forces: expected forces in the {role} frames, found none")


def checkpoint_of(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and state, and the arrays, of the checkpoint in a run folder; UserError where it breaks a
    rule."""
    path = Path(folder) / CHECKPOINT
    content, arrays = read_checkpoint(path, FORMAT, VERSION, CONTENT, _layout)
    state, sources = content["state"], content["sources"]
    for part in ("train", "valid"):
        drawn, told = len(arrays[f"{part}_frames"]), content["provenance"].get(f"n_{part}")
        if told not in (None, drawn):
            raise UserError(f"{path}: {part}_frames: expected the {told} of the provenance, found {drawn}")
    if state["best_epoch"] > state["epoch"]:
        raise UserError(
            f"{path}: state.best_epoch: expected at most epoch {state['epoch']}, found {state['best_epoch']}"
        )
    if bool(state["best_epoch"]) != math.isfinite(state["best_rmse"]):
        raise UserError(f"{path}: state.best_rmse: expected one of a best epoch, found {state['best_rmse']}")
    if bool(sources["valid_data"]) != bool(sources["valid_hash"]):
        raise UserError(f"{path}: sources.valid_hash: expected one of valid_data, found another")
    model = Model(Config.from_file(content["config"]).model, len(arrays["scale"]), 1.0)
    expected = sum(math.prod(shape) for shape in model.shapes().values())
    if len(arrays["weights"]) != expected:
        raise UserError(
            f"{path}: weights: expected {expected:,} numbers, as the settings have it, "
            f"found {len(arrays['weights']):,}"
        )
    return content, arrays


def _layout(content: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays of a checkpoint."""
    train = Config.from_file(content["config"]).train
    weights = Array(np.dtype(train.dtype).type, ("weights",))
    squares = replace(weights, low=0)
    return {
        "train_frames": Array(np.integer, ("train",), low=0, rising=True),
        "valid_frames": Array(np.integer, ("valid",), low=0, rising=True),
        **dict.fromkeys(("weights", "average", "best"), replace(weights, low=-MOST_WEIGHT, high=MOST_WEIGHT)),
        "adam_m": weights,
        **dict.fromkeys(("adam_v", "adam_v_max") if train.amsgrad else ("adam_v",), squares),
        **(_factors(weights) if train.optimizer == "soap" else {}),
        "scale": Array(np.float64, ("elements",), above=0),
        "shift": Array(np.float64, ("elements",)),
        "mean_neighbours": Array(np.float64, low=1e-3, high=1e6),
    }


def _factors(weights: Array) -> dict[str, Array]:
    return {
        f"adam_{side}{kind}": replace(weights, shape=(side,))
        for side in ("left", "right")
        for kind in ("", "_basis")
    }


def _check_drawn(frames: np.ndarray, data: Dataset, path: Path) -> None:
    if not len(frames) or frames[-1] >= len(data):
        raise UserError(f"{path}: expected some of the {len(data)} frames of {data.path}, found {frames}")


def _only_stops_differ(config: Config, stored: Config, path: Path) -> None:
    for table, values in config.to_dict().items():
        for key, value in values.items():
            before = getattr(getattr(stored, table), key)
            if value != before and key not in STOPS:
                raise UserError(
                    f"{path}: {table}.{key}: expected {before!r} as the run began, found {value!r}; "
                    f"a resumed run may change only train.{', train.'.join(STOPS)}"
                )


def _same_file(path: str | Path, expected: str, checkpoint: Path) -> Dataset:
    data = read_dataset(path)
    check_hash(path, data.hash, expected, checkpoint)
    return data


def _read_log(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, newline="") as file:
            rows = list(csv.reader(line for line in file if line.endswith("\n")))  # not half a line
        if rows and tuple(rows[0]) != COLUMNS:
            raise ValueError(f"columns {', '.join(rows[0])}"[:100])
        return [_row(row) for row in rows[1:]]
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, csv.Error) as e:
        raise UserError(f"{path}: expected the table of the run, found a row that is none: {e}") from None


def _row(cells: list[str]) -> dict[str, Any]:
    row = {k: float(cell) if cell else None for k, cell in zip(COLUMNS, cells, strict=True)}
    return row | {"epoch": int(cells[0])}


def _cells(row: Mapping[str, Any]) -> list[Any]:
    """A row of the log, in the order of its columns; nothing where there is no number."""
    values = [row[key] for key in COLUMNS]
    return ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values]


def _mean(values: list[float], weights: list[int]) -> float:
    """Weighted mean of the values that are no NaN."""
    known = [(v, w) for v, w in zip(values, weights, strict=True) if not math.isnan(v)]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else math.nan
