"""Learning: weights that follow the gradient of the loss, and all that the next epoch depends on."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from eqpot.backend import moved, to_device, to_host
from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.potential import Potential
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames, Labels
from eqpot.structures.graph import Batch
from eqpot.training import validation
from eqpot.training.adam import Adam, MovingAverage, largest_gradient
from eqpot.training.finetune import frozen
from eqpot.training.loss import known_numbers, loss_and_gradient
from eqpot.training.ranks import OneRank
from eqpot.training.soap import Soap, matrices
from eqpot.training.statistics import element_weights, frame_weights, require_forces

ATOMS_A_STEP = 75  # of batches of no given size
TERMS = ("energy", "forces", "stress")  # of the loss
StepDone = Callable[[float, Mapping[str, float]], None]


class Diverged(UserError):
    """What is not finite, at a step of the frames `chosen`, or at none."""

    def __init__(self, what: str, chosen: np.ndarray | None = None):
        super().__init__(f"training diverged: expected finite numbers, found {what}")
        self.what, self.chosen = what, chosen


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


class Learner:
    """Weights, optimizer and moving average; frames to train on and to validate on; where training stands.

    device: "cpu", "cuda" or "auto"; where weights, gradients and what they are made from are kept. The same
    bits on one kind of device only.

    potential: to go on with, of all elements; None: a fresh one; known: elements whose weights `train.freeze`
    keeps as they are, of a parent's.
    """

    def __init__(
        self,
        config: Config,
        train: Dataset,
        valid: Dataset,
        device: str = "cpu",
        potential: Potential | None = None,
        known: Sequence[int] = (),
    ):
        """Makes the frames' neighbour lists; UserError where they have no forces."""
        self.began = time.monotonic()
        self.config, self.known, self.ranks = config, known, OneRank()
        require_forces(train, "training")
        require_forces(valid, "validation")
        species = sorted({*train.species, *(int(z) for z in known)})
        self.train = Frames(train, species, config.model.cutoff)
        self.valid = Frames(valid, species, config.model.cutoff)
        atoms = len(self.train.dataset.numbers) / len(self.train)
        self.batch_size = config.train.batch_size or max(1, round(ATOMS_A_STEP / atoms))
        self.stress = config.loss.stress > 0 and self.train.has_stress
        self._check_labels()
        balanced = config.loss.element_weights == "balanced"
        self.atom_weights = element_weights(train, balanced)[train.numbers]
        self.frame_weights = frame_weights(train, config.loss.group_weights)
        if self.frame_weights is not None:
            self.atom_weights = self.atom_weights * self.frame_weights[train.frame_of_atom]
        if potential is None:
            fresh = dict(seed=config.train.seed, dtype=config.train.dtype, **config.model.to_dict())
            potential = Potential.create(species, **fresh)
        self.potential = potential
        self.potential.to(device)
        self.backend = self.potential.backend
        self.weights = self.potential.params.flat
        held = frozen(self.potential.model, config.train.freeze, species, known)
        self._free = None if held is None else to_device((~held).astype(self.weights.dtype), self.backend)
        self.optimizer = self._optimizer(held)
        self.average = MovingAverage(self.weights, config.train.ema, self.backend)
        self.best = self.weights.copy()
        self.random = np.random.default_rng([config.train.seed, 1])
        self.state = State(config.train.learning_rate)
        self.within = 0.0  # part of the epoch that is done
        self._gpu = None
        if self.backend == "cuda":
            if config.train.ordered_sums:
                raise UserError(
                    "train.ordered_sums: expected false on a GPU, found true; --device cpu takes it"
                )
            from eqpot.training.gpu_steps import GpuFrames, GpuSteps

            if GpuFrames.fits(self.train):
                self._gpu = GpuSteps(
                    self.train,
                    self.atom_weights,
                    self.optimizer,
                    self.average,
                    self.weights,
                    gradient=self.loss_gradient,
                    memory=lambda: self.potential.fitted.pool.arrays(),  # of the pool at that time
                    components=self.potential.config.components,
                    frame_weights=self.frame_weights,
                )

    @classmethod
    def copy_of(
        cls, config: Config, train: Dataset, valid: Dataset, known: Sequence[int], contents: tuple
    ) -> Self:
        """One of the same settings and frames, on a CPU, that stands where one with such `contents` did."""
        copied = cls(config, train, valid, known=known)
        copied.restore(*contents)
        return copied

    def _check_labels(self) -> None:
        """UserError where the loss weighs no label that there is: all weights would do."""
        energies = self.train.dataset.known("energy").any()
        there = ["forces", *["energy"] * bool(energies), *["stress"] * self.train.has_stress]
        weights = {name: getattr(self.config.loss, name) for name in there}
        if not any(weights.values()):
            found = ", ".join(f"loss.{name} {weight:g}" for name, weight in weights.items())
            raise UserError(
                f"{self.train.dataset.path}: expected a weight above 0 of a label in the training frames, "
                f"found {found}"
            )

    def epoch(self, step_done: StepDone) -> dict[str, float]:
        """One pass over the training frames in random order; returns the mean loss and its terms.

        step_done: is told after each step which part of the epoch is done, and its losses.
        """
        order = self.random.permutation(len(self.train))
        size = self.batch_size
        losses, frames = [], []
        self.within = 0.0
        for chosen in (order[k : k + size] for k in range(0, len(order), size)):
            losses.append(self.step(chosen))
            frames.append(len(chosen))
            self.within = sum(frames) / len(order)
            step_done(self.within, losses[-1])
            if self.elapsed() >= self.config.train.max_seconds:
                break
        return {key: _mean([row[key] for row in losses], frames) for key in losses[0]}

    def step(self, chosen: np.ndarray) -> dict[str, float]:
        """One step of the optimizer on the frames `chosen`."""
        if self._gpu is not None:
            value, parts, gradient, finite = self._gpu.step(chosen, self.rate)
        else:
            (value, *parts), gradient = self.ranks.gradient(self, chosen)
            value, parts = float(value), dict(zip(TERMS, map(float, parts), strict=True))
            largest = np.abs(gradient).max()  # NaN where one is
            finite = math.isfinite(value) and bool(largest < largest_gradient(gradient.dtype))
            if finite:
                self.optimizer.step(self.weights, gradient, self.rate())
                self.average.update(self.weights)
        if not finite:
            largest = float(np.abs(gradient).max())
            raise Diverged(f"a loss of {value:g} with a gradient of {largest:g}", chosen)
        return {"loss": value, **{f"loss_{name}": part for name, part in parts.items()}}

    def sums(self, mine: np.ndarray, chosen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """What the frames `mine` add to the loss of all that are `chosen`: loss and its terms, float64 [4],
        and gradient, which the next call may overwrite; of all together, or with `ordered_sums` of each."""
        ordered, counts = self.config.train.ordered_sums, None
        if ordered or len(mine) < len(chosen):
            _, rows = self.train.batch(chosen)
            counts = known_numbers(self.train.labels(chosen, rows))
        pieces = np.split(mine, range(1, len(mine))) if ordered else [mine]
        found = []
        for piece in pieces if len(mine) else ():
            value, parts, gradient = self._piece(piece, counts)
            values = np.array([value, *(parts[name] for name in TERMS)], np.float64)
            found.append((values, gradient if len(pieces) == 1 else gradient.copy()))
        return found

    def _piece(self, chosen: np.ndarray, counts: Mapping[str, int] | None) -> tuple:
        """`loss_gradient` of frames."""
        batch, rows = self.train.batch(chosen)
        batch, labels = moved(batch, self.backend), self.train.labels(chosen, rows).on(self.backend)
        frame_weights = None if self.frame_weights is None else self.frame_weights[chosen]
        weights = (
            None if of is None else to_device(of, self.backend)
            for of in (self.atom_weights[rows], frame_weights)
        )
        return self.loss_gradient(batch, labels, *weights, counts)

    def loss_gradient(
        self,
        batch: Batch,
        labels: Labels,
        atom_weights: np.ndarray,
        frame_weights: np.ndarray | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> tuple[float, dict[str, float], np.ndarray]:
        """Loss, its terms and its gradient by the weights, zero by those that stay, all where the potential
        is; counts: as of `loss_and_gradient`."""

        def loss(prediction: Labels):
            of_batch = batch.atom_counts, atom_weights, batch.volume, frame_weights
            return loss_and_gradient(self.config.loss, prediction, labels, *of_batch, counts)

        (value, parts, *_), gradient = self.potential.loss_gradient(batch, loss, stress=self.stress)
        if self._free is not None:
            gradient *= self._free
        return value, parts, gradient

    def validate(self) -> dict[str, float | None]:
        """Errors of the averaged weights on the validation frames."""
        trained = self.weights.copy()
        self.weights[:] = self.average.weights
        try:
            errors = validation.errors(self.valid.dataset, self.ranks.predictions(self))
        finally:
            self.weights[:] = trained
        if not math.isfinite(errors["forces_rmse"]):
            raise Diverged(f"a validation force RMSE of {errors['forces_rmse']:g}")
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

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What the next epoch depends on: plain values, and copies of the arrays."""
        arrays = {
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
            "random": self.random.bit_generator.state,
            "adam_steps": self.optimizer.steps,
            "average_steps": self.average.steps,
            "provenance": dict(self.potential.provenance),
        }
        return content, {name: np.array(to_host(array)) for name, array in arrays.items()}

    def restore(self, stored: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take what `contents` gave one of the same settings and frames; UserError where it does not fit."""
        moments = {f"adam_{name}": x for name, x in self.optimizer.state().items() if name != "steps"}
        for name, array in {"scale": self.potential.scale, **moments}.items():
            if len(arrays[name]) != len(array):
                raise UserError(
                    f"{name}: expected {len(array):,} numbers, as settings and elements in training have it, "
                    f"found {len(arrays[name]):,}"
                )
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

    def _optimizer(self, held: np.ndarray | None) -> Adam | Soap:
        """held: weights that stay. Adam leaves what has no gradient exactly as it is, SOAP what is in no
        matrix, or in one of other weights only."""
        if self.config.train.optimizer == "soap":
            places = matrices(self.potential.model, self.potential.params.starts)
            places = places if held is None else [p for p in places if not held[p.index()].any()]
            return Soap(self.weights, places, self.backend)
        return Adam(self.weights, self.config.train.amsgrad, self.backend)


def _mean(values: list[float], weights: list[int]) -> float:
    """Weighted mean of the values that are no NaN."""
    known = [(v, w) for v, w in zip(values, weights, strict=True) if not math.isnan(v)]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else math.nan
