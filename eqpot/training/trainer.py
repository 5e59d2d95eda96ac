"""Training: from a data set and a Config to a run folder.

    model.h5            the best weights by validation force RMSE (their moving average)
    checkpoint.h5       everything that the next epoch depends on
    log.csv             a row per epoch
    config.toml         the settings
    learning_curve.png
    converted.h5        the frames, where they were read from other files than a data set of eqpot's, or where
                        some are replayed; converted_valid.h5 those to validate on

All randomness (split, initial weights, order of the frames) follows from the seed, so a run repeats bit by
bit; with `max_time` it follows the clock as well. A checkpoint holds the end of an epoch, the last one or,
after a kill, one shortly before it, and resuming from it gives the bits of a run that was never stopped.
"""

import dataclasses
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase.data import chemical_symbols

from eqpot.backend import resolve
from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.files import replacing, shown
from eqpot.potential import Potential
from eqpot.runs import Hold, Watch, beginning, check_run, clear_run, keep_apart
from eqpot.structures.data import Dataset, repeated
from eqpot.structures.frames import Frames
from eqpot.training import checkpoint, validation
from eqpot.training.beginning import DATA, VALID, Beginning, begin
from eqpot.training.checkpoint import CHECKPOINT
from eqpot.training.finetune import Parent
from eqpot.training.learner import Diverged, Learner
from eqpot.training.log import COLUMNS, ERRORS, extend_log, read_log, write_log
from eqpot.training.outlook import estimate, limit
from eqpot.training.sources import Sources
from eqpot.training.statistics import closest, energy_units, mean_neighbours, shifts_left
from eqpot.version import version
from eqpot.words import counted

MODEL, LOG, SETTINGS, CURVE = "model.h5", "log.csv", "config.toml", "learning_curve.png"

FILES = (MODEL, CHECKPOINT, LOG, SETTINGS, CURVE, DATA, VALID)


class Trainer(Learner):
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
        potential: Potential | None = None,
    ):
        """Draws the frames of `sources` from the two data sets and makes their neighbour lists."""
        drawn = train.subset(sources.train), valid.subset(sources.valid)
        super().__init__(config, *drawn, device, potential, sources.known)
        self.folder, self.sources = folder, sources
        self.rows: list[dict[str, float]] = []
        self.hold = Hold(folder)
        self._kept: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None
        self._saved_best, self._next_save = 0, 0.0
        self._next_drawing = self.began + 10

    @classmethod
    def start(
        cls,
        config: Config,
        data: str | Path | Dataset,
        folder: str | Path,
        valid: str | Path | Dataset | None = None,
        overwrite: bool = False,
        command: str = "",
        device: str = "cpu",
        parent: Parent | None = None,
        replay: str | Path | Dataset | None = None,
        ranks: int = 1,
    ) -> Self:
        """A new run; nothing is written before data and settings are found good.

        data, valid: data set files, or frames that the run folder keeps; parent: what it begins with, of
        whose data `replay` has some; ranks: how many are to share it, see `eqpot.training.ranks`.
        """
        device = resolve(device)
        with Hold(folder) as hold:
            check_run(folder, FILES, overwrite)
            keep_apart(folder, FILES, data, valid, replay, parent.path if parent else None)
            begun = begin(config, data, valid, command, parent, replay)
            made = begun.config, Path(folder), begun.sources, begun.train, begun.valid, device
            self = cls(*made, begun.potential)
            self._check_ranks(ranks)
            potential = self.potential
            if parent is None:
                wanted = begun.isolated.shifts, config.train.scale
                potential.shift[:], potential.scale[:] = energy_units(self.train, potential.zbl, *wanted)
                potential.mean_neighbours = mean_neighbours(self.train)
            else:
                begun.notes["parent_valid_forces_rmse"] = self.validate()["forces_rmse"]
            self.hold = hold
            clear_run(hold, FILES, overwrite)
            with beginning(hold, FILES):
                begun.store(self.folder)
                potential.provenance.update(self._provenance(begun, parent))
                self._keep()
                self._save()
                self._write_settings()
                write_log(self.folder / LOG, self.rows)
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
            stored, arrays = checkpoint.checkpoint_of(folder)
            began = Config.from_file(stored["config"])
            if config.model.isolated_atoms == "auto":  # decided as the run began
                config = config.replace({"model": {"isolated_atoms": began.model.isolated_atoms}})
            checkpoint.only_stops_differ(config, began, path)
            drawn = {part: arrays[f"{part}_frames"] for part in ("train", "valid")}
            sources = Sources(**stored["sources"], **drawn)
            sources.known = arrays.get("parent_species", sources.known)
            if valid is not None and not sources.valid_data:
                split = shown(folder / sources.data)
                raise UserError(f"{path}: expected no --valid, since the run split {split}, found {valid}")
            train_data = checkpoint.same_file(data or folder / sources.data, sources.data_hash, path)
            valid_data = train_data
            if sources.valid_data:
                there = valid or folder / sources.valid_data
                valid_data = checkpoint.same_file(there, sources.valid_hash, path)
            checkpoint.check_drawn(sources.train, train_data, path)
            checkpoint.check_drawn(sources.valid, valid_data, path)
            self = cls(config, folder, sources, train_data, valid_data, device)
            self.hold = hold
            try:
                self.restore(stored, arrays)
            except UserError as e:
                raise UserError(f"{path}: {e}") from e
            rows = read_log(folder / LOG)
            self.began -= self.state.seconds
            self.rows = [row for row in rows if row["epoch"] <= self.state.epoch]
            write_log(self.folder / LOG, self.rows)
            if self.state.best_epoch:
                self._write_model()
            if not self.finished():
                self._write_settings()
        return self

    def run(self, watch: Watch | None = None) -> str:
        """Train until something says stop; returns what did. Ends with `best` in the potential."""
        with closing(self.hold.take()):
            try:
                return self._run(watch or Watch())
            finally:
                self._save()  # the last whole epoch, whatever ended this one

    def _run(self, watch: Watch) -> str:
        while not (reason := self.finished()):
            with np.errstate(over="ignore", invalid="ignore"):  # what diverges is named by its loss
                try:
                    losses = self.epoch(lambda fraction, losses: watch.step_done(self, fraction, losses))
                    errors = self.validate()
                except Diverged as e:
                    raise self._diverged(e) from None
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
            extend_log(self.folder / LOG, self.rows[-1])
            self._keep()
            if time.monotonic() >= self._next_save:
                self._save()
            self._draw_at_times()
            watch.epoch_done(self)
        self.weights[:] = self.best
        self._refit_shifts()
        return reason

    def _refit_shifts(self) -> None:
        """Move the shifts to where the best weights leave no mean error of the training energies.

        Forces outweigh energies in the gradient, so that a falling rate leaves a constant behind, 0.8 meV in
        a molecule of 15 atoms (bench/accuracy.md). Checkpoints keep the shifts of training: a resumed run
        goes on with those, and ends here again.
        """
        train, potential = self.config.train, self.potential
        fitted = train.shifts == "least_squares" and not potential.config.isolated_atoms
        if not (train.refit_shifts and fitted and self.train.dataset.known("energy").any()):
            return
        elements = self.train.dataset.species
        change = shifts_left(potential, self.train, elements, self.frame_weights)
        potential.shift[[potential.species.index(z) for z in elements]] += change
        told = ", ".join(f"{chemical_symbols[z]} {x:+.2g}" for z, x in zip(elements, change, strict=True))
        potential.provenance["shifts_refit"] = f"by {told} eV, after the last epoch"
        self._write_model()

    def _check_ranks(self, count: int) -> None:
        """UserError where some of so many ranks would have nothing to do."""
        if self.batch_size < count:
            raise UserError(
                f"train.batch_size: expected a frame a step for each of {count} ranks, found "
                f"{counted(self.batch_size, 'frame')} a step; start fewer ranks, or --set "
                f"train.batch_size={count}, which may need another learning rate"
            )

    def report(self) -> dict[str, Any]:
        """Errors of the best weights on the validation frames; call it after `run`."""
        return validation.report(self.valid.dataset, validation.predict(self.potential, self.valid))

    def outlook(self) -> str:
        """What to expect at the end, once a tenth of a run is over whose rate falls to it; else empty."""
        if not self.to_its_end():
            return ""
        errors = [row["valid_forces_rmse"] for row in self.rows]
        forces = float(np.sqrt(np.nanmean(self.valid.dataset.forces**2)))
        return estimate(errors, self.done(), self.config.train.cooldown, self.elapsed(), forces)

    def verdict(self) -> str:
        """What limited the fit, or that its parent is better; call it after `run`."""
        before = self.potential.provenance.get("parent_valid_forces_rmse", math.inf)
        if self.state.best_rmse > before:
            return (
                f"warning: no epoch reached the F of {1000 * before:.3g} meV/Å on the validation frames that "
                f"{self.potential.provenance['parent']} had before the first step: it is better than this "
                "model"
            )
        count = min(len(self.train), max(len(self.valid), 20))
        chosen = np.linspace(0, len(self.train) - 1, count).astype(int)
        seen = Frames(self.train.dataset.subset(chosen), self.potential.species, self.config.model.cutoff)
        training = validation.errors(seen.dataset, validation.predict(self.potential, seen))["forces_rmse"]
        if training is None:
            return ""
        every = len(self.train)
        which = f"{count} of {every} training frames" if count < every else counted(every, "training frame")
        full = self.config.train.learning_rate
        at_full_rate = [row["valid_forces_rmse"] for row in self.rows if row["learning_rate"] == full]
        limited = limit(training, self.state.best_rmse, at_full_rate, "parent" in self.potential.provenance)
        return f"F {1000 * training:.3g} meV/Å on {which}: {limited}"

    def warnings(self) -> list[str]:
        """What is legal but perhaps not meant."""
        lines = [frames.warning() for frames in (self.train, self.valid)]
        lines.append(self.potential.provenance.get("replay_doubt", ""))
        if self.config.loss.energy > 0 and not self.train.dataset.known("energy").any():
            lines.append(f"{self._data()}: no energies; the potential learns from forces alone")
        if self.sources.valid_data and (same := repeated(self.train.dataset, self.valid.dataset).sum()):
            lines.append(
                f"{self.valid.dataset.path}: {same} of {counted(len(self.valid), 'validation frame')} repeat "
                "frames trained on: errors on them are no errors on new frames"
            )
        return [line for line in lines if line]

    def notes(self) -> list[str]:
        """Where shifts are from and what they are good for, what weights mean, where that is not as usual."""
        provenance, loss = self.potential.provenance, self.config.loss
        weights = ""
        usual = loss.energy in (0, type(loss).energy) and loss.stress in (0, type(loss).stress)
        if loss.errors == "root_n" and not usual:
            weights = (
                "loss.energy and loss.stress weigh errors of energy and virial by sqrt(N); "
                "loss.errors=per_atom makes them weigh errors by atom, as version 0.1 did"
            )
        about_data = (provenance.get(key) for key in ("left_out", "shifts", "note"))
        lines = [*self._parent(), *about_data, weights]
        if self.frame_weights is not None:
            low, high = self.frame_weights.min(), self.frame_weights.max()
            weigh = f"{low:g} to {high:g}" if low < high else f"{low:g} each"
            lines.append(f"frames weigh {weigh} in the loss, and all alike in validation")
        return [line for line in lines if line]

    def _parent(self) -> list[str]:
        """What is taken over from the parent, if there is one, and what that reaches on the validation
        frames."""
        found = self.potential.provenance
        if "parent" not in found:
            return []
        rmse, replay = 1000 * found["parent_valid_forces_rmse"], found.get("replay")
        stay = ", ".join(self.config.train.freeze)
        return [
            f"of {found['parent']}: {found['taken_over']}; F {rmse:.3g} meV/Å on the validation frames "
            f"before the first step; learning rate {self.config.train.learning_rate:g}",
            f"weights that stay as they are: {stay}" if stay else "",
            f"replayed: {replay}" if replay else "",
        ]

    def _keep(self) -> None:
        """Remember what `_save` is to write."""
        content, arrays = self.contents()
        sources = dataclasses.asdict(self.sources)
        drawn = {f"{part}_frames": sources.pop(part) for part in ("train", "valid")}
        if len(known := sources.pop("known")):
            drawn["parent_species"] = known
        self._kept = content | {"sources": sources}, drawn | arrays

    def _save(self) -> None:
        """Write what is kept, and the best weights, where they are not written yet.

        It waits for the disk, and may take a fiftieth of the time: short epochs are saved a few at a time.
        """
        if self._kept is None:
            return
        began = time.monotonic()
        if self.state.best_epoch != self._saved_best:
            self._write_model()
        checkpoint.write(self.folder, *self._kept)
        self._kept, end = None, time.monotonic()
        self._next_save = end + 50 * (end - began)

    def _provenance(self, begun: Beginning, parent: Parent | None) -> dict[str, Any]:
        texts = {k: v for k, v in begun.train.attrs.items() if k in ("source", "level_of_theory") and v}
        shortest = closest(self.train, self.potential.species)
        for pair, r in (parent.potential.provenance.get("closest", {}) if parent else {}).items():
            shortest[pair] = min(r, shortest.get(pair, r))
        return {
            "data": _name(self.sources.data, begun.train),
            "data_hash": self.sources.data_hash,
            "valid": _name(self.sources.valid_data, begun.valid) if self.sources.valid_data else "",
            "valid_hash": self.sources.valid_hash,
            "n_train": len(self.train),
            "n_valid": len(self.valid),
            **{k: str(v) for k, v in texts.items()},
            "command": self.sources.command,
            "seed": self.config.train.seed,
            "version": version(),
            "closest": shortest,
            "config": self.config.to_dict(),
            **begun.notes,
        }

    def _diverged(self, found: Diverged) -> UserError:
        frames = [] if found.chosen is None else self.sources.train[found.chosen]
        where = f", frames {', '.join(map(str, frames))}" if len(frames) else ""
        return UserError(
            f"{self._data()}{where}: training diverged in epoch {self.state.epoch + 1}: "
            f"expected finite numbers, found {found.what}; {self.folder / CHECKPOINT} keeps epoch "
            f"{self.state.epoch}; try a lower train.learning_rate"
        )

    def _data(self) -> str:
        return shown(self.folder / self.sources.data)

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
            temporary.write_text(self.config.to_toml(), encoding="utf-8")

    def _draw_at_times(self) -> None:
        """Drawing may take a hundredth of the time, and not more often than every 10 s."""
        now = time.monotonic()
        if now >= self._next_drawing:
            self.write_curve()
            end = time.monotonic()
            self._next_drawing = end + max(10.0, 100 * (end - now))

    def write_curve(self) -> None:
        """Draw learning_curve.png."""
        from eqpot.plots import learning_curve

        columns = {k: [math.nan if row[k] is None else row[k] for row in self.rows] for k in COLUMNS}
        learning_curve(columns, self.folder / CURVE)


def _name(path: str, frames: Dataset) -> str:
    """Of a file; of frames that the run folder keeps, where they came from."""
    return Path(frames.path if path in (DATA, VALID) else path).name
