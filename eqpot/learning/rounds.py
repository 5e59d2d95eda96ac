"""Learning in one folder: `Learning.start(...)` or `Learning.resume(...)`, then `run()`.

A round: dynamics of the committee, in round 0 shaken structures instead; frames are chosen, computed, and,
where drawn at random, tested; the committee is fitted on. At the end it is fitted longer, and tested on
frames of its own dynamics that are held out: nothing is fitted to them unless the run goes on.

Each of these stages follows from files of those before and the seed, and ends with a file of its own (see
`folder`), so that a run which was killed goes on at the stage that it was in: it ends with the same data set
as one that was not, and a frame that has labels is not computed again. A limit of time depends on the clock.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.files import check_folder, remove_stale, shown, write_json
from eqpot.learning import committee, explore, log, reference
from eqpot.learning import folder as files
from eqpot.learning.calibration import Measured, latest
from eqpot.learning.choose import RANDOM, Choice, choose, features
from eqpot.learning.exchange import Exported, export, imported_labels
from eqpot.learning.folder import Stored, round_folder
from eqpot.learning.forecast import forecast
from eqpot.learning.frames import identity, labelled, shaken, unlabelled, weights
from eqpot.learning.settings import LearnConfig
from eqpot.potential import Potential
from eqpot.runs import Hold, Watch
from eqpot.structures.data import Dataset, concatenate, read_dataset, validate, write_dataset
from eqpot.structures.trajectory import read_trajectory
from eqpot.training.finetune import Parent
from eqpot.words import counted

BAND = 4.0  # the threshold of an atom's deviation, in RMS errors of force components
HELD_OUT = "held out"  # why frames are chosen after the final fit
REACHED = "the target is reached"


class Learning:
    """One run in one folder."""

    def __init__(self, folder: Path, stored: Stored, hold: Hold):
        self.folder, self.stored, self.config, self.hold = folder, stored, stored.config, hold
        self.tell: Callable[[str], object] = lambda line: None
        self.watch = Watch()
        self._seconds = files.read_clock(folder)  # of stages, the shortest of each kind
        self._began = time.monotonic() - self._seconds.pop("seconds", 0.0)

    @classmethod
    def start(
        cls,
        config: LearnConfig,
        fit: Mapping[str, Any],
        structures: Sequence[Atoms],
        folder: str | Path,
        given: Dataset | None = None,
        parents: Sequence[str | Path] = (),
        command: str = "",
    ) -> Self:
        """A new run. fit: settings as of `Config.from_dict`; given: frames to begin with; parents: models.

        Nothing is written before structures, settings and reference are found good.
        """
        folder = Path(os.path.abspath(folder))
        files.check_new(folder)
        Config.from_dict(fit)
        validate(unlabelled(structures, [""] * len(structures)), "structures")
        if config.reference:
            reference.maker(reference.absolute(config.reference, folder))
        else:
            check_folder(folder / config.export)
        for path in parents:
            Parent.load(path).settings(fit)  # which it must not contradict
        with Hold(folder) as hold, files.new(folder):
            hold.take()
            (folder / files.LABELS).mkdir()
            explore.write_starts(folder / files.STRUCTURES, structures)
            if given is not None:
                write_dataset(folder / files.GIVEN, given)
            for k, path in enumerate(parents):
                Potential.load(path).save(folder / f"given_{k + 1}.h5")
            stored = Stored(config, fit, len(parents), command)
            stored.write(folder)
            return cls(folder, stored, hold)

    @classmethod
    def resume(cls, folder: str | Path, **changes: Any) -> Self:
        """The run of `folder`; `changes` are of limits and workers."""
        folder = Path(os.path.abspath(folder))
        with Hold(folder) as hold:
            stored = Stored.read(folder)
            config = LearnConfig.from_dict(stored.config.to_dict() | changes)
            if config.reference:
                reference.maker(reference.absolute(config.reference, folder))
            if config != stored.config:
                stored = replace(stored, config=config)
                stored.write(folder)
            remove_stale(folder / files.LABELS)
            return cls(folder, stored, hold)

    def run(self, imported: Dataset | None = None) -> str:
        """Go on to the end; returns the reason. imported: labels of the frames that were exported.

        Exported where frames wait to be computed elsewhere. UserError where no frame of a round could be
        computed, or none could be met.
        """
        with closing(self.hold.take()), ExitStack() as at_end:
            at_end.callback(self._write_clock)
            k = self.round
            while True:
                began = time.monotonic()
                self._choose(k)
                self._compute(f"round_{k}", round_folder(self.folder, k), imported)
                self._gather(k)
                if k:
                    self._test(f"round {k}", round_folder(self.folder, k), RANDOM, self._committee(k - 1))
                self._write_log()
                self._test_final(k, imported)
                if reason := self._ended(k):
                    break
                self._fit(k)
                self._took("round", began)
                k, imported = k + 1, None
            self._finish(k)
        return reason

    # ---- where it stands

    @property
    def round(self) -> int:
        """The last one whose frames are chosen, or 0."""
        k = 0
        while (round_folder(self.folder, k + 1) / files.CHOSEN).exists():
            k += 1
        return k

    def elapsed(self) -> float:
        """Seconds of work, by earlier processes as far as they ended a stage."""
        return time.monotonic() - self._began

    @cached_property
    def structures(self) -> list[Atoms]:
        """Those that were given."""
        return read_trajectory(self.folder / files.STRUCTURES)

    def tests(self) -> list[Measured]:
        """Of rounds 1, 2, ..., as far as they went."""
        return log.tests(self.folder, self.round)

    def tested(self) -> Measured:
        """By which frames errors and deviations are known."""
        return log.tested(self.folder, self.round)

    def rows(self) -> list[dict[str, Any]]:
        """Of the log."""
        return log.rows(self.folder, self.round)

    def models(self) -> list[Path]:
        """The committee as it is now."""
        return committee.model_paths(self.folder, self.config.members)

    # ---- the stages

    def _committee(self, k: int) -> list[Path]:
        return committee.model_paths(round_folder(self.folder, k), self.config.members)

    def _label(self, atoms: Atoms) -> Path:
        return log.label_path(self.folder, atoms)

    def _took(self, stage: str, began: float) -> None:
        seconds = time.monotonic() - began
        self._seconds[stage] = min(seconds, self._seconds.get(stage, math.inf))
        self._write_clock()

    def _write_log(self) -> None:
        log.write(self.folder, self.round, self.config.target / 1000)

    def _write_clock(self) -> None:
        write_json(self.folder / files.CLOCK, {"seconds": self.elapsed(), **self._seconds})

    def _choose(self, k: int) -> None:
        folder = round_folder(self.folder, k)
        if not (folder / files.CHOSEN).exists():
            folder.mkdir(exist_ok=True)
            write_dataset(folder / files.CHOSEN, self._explore(k) if k else self._begin())
        files.remove_dynamics(folder)

    def _begin(self) -> Dataset:
        """Shaken structures; of data that were given, the structures alone."""
        config, frames = self.config, []
        count = 1 if (self.folder / files.GIVEN).exists() else config.start
        count = min(count, max(1, (config.frames - config.at_end) // len(self.structures)))
        random = np.random.default_rng([config.seed, 2])
        for structure in self.structures:
            frames += shaken(structure, count, config.rattle, config.strain, random)
        self.tell(f"round 0: {counted(len(frames), 'frame')}, shaken structures")
        return unlabelled(frames, ["shaken"] * len(frames))

    def _level(self, models: Sequence[Path], after: int) -> tuple[float, float]:
        """RMS error of force components (eV/Å) by the rounds up to `after`, and the factor of deviations."""
        tests = latest(self.tests()[:after])
        if len(tests):
            return tests.rms("error"), tests.factor
        return committee.left_out_rmse(models), 1.0

    def _explore(self, k: int) -> Dataset:
        folder, models = round_folder(self.folder, k), self._committee(k - 1)
        walks, found, met = self._meet(f"round {k}", folder, models, k - 1, 3)
        if found is None:
            raise UserError(
                f"{shown(folder)}: the dynamics led through no frame that could be computed: give more "
                "--start frames, a lower --temperature or a shorter --timestep"
            )
        satisfied = k > 1 and met["threshold"] <= BAND * self.config.target / 1000
        choice = self._choice(k, found, Potential.load(models[0]), satisfied)
        explore.write_starts(folder / files.STARTS, list(explore.next_starts(walks, found)))
        counts = ", ".join(f"{choice.reasons.count(r)} {r}" for r in dict.fromkeys(choice.reasons))
        self.tell(f"round {k}: chosen: {counts}")
        return _chosen(found, choice.frames, choice.reasons, met)

    def _hold_out(self, k: int, folder: Path) -> None:
        """Choose frames of the finished committee's dynamics, drawn at random from those not computed yet."""
        count = min(self.config.at_end, self.config.frames - self._counted(k, final=False))
        if count < 1:
            if self.config.at_end:
                self.tell("final fit: --frames leaves none to be held out")
            return
        models = committee.model_paths(folder, self.config.members)
        _, found, met = self._meet("final fit", folder, models, k, 5)
        met_at = {} if found is None else {self._label(found.data.atoms(j)): j for j in range(met["met"])}
        left = np.array([j for path, j in met_at.items() if not path.exists()], int)
        if not len(left):
            self.tell("warning: final fit: its dynamics led through no frame that could be held out")
            return
        drawn = np.random.default_rng([self.config.seed, 6, k]).permutation(left)[:count].tolist()
        write_dataset(folder / files.CHOSEN, _chosen(found, drawn, [HELD_OUT] * len(drawn), met))

    def _meet(
        self, name: str, folder: Path, models: Sequence[Path], after: int, stream: int
    ) -> tuple[list[explore.Walk], explore.Seen | None, dict[str, Any]]:
        """Dynamics of the models from where those of round `after` were last certain: the runs, what they
        met, and this as in `folder.MET`. stream: of the seeds."""
        error, factor = self._level(models, after)
        threshold = BAND * max(self.config.target / 1000, error)
        limit = threshold / factor
        potentials = [Potential.load(path) for path in models]
        random = np.random.default_rng([self.config.seed, stream, after + 1])
        planned = explore.runs(self.config, len(self.structures), random)
        starts = round_folder(self.folder, after) / files.STARTS
        if after == 0:
            starts = folder / "structures.traj"
            explore.write_starts(starts, [self.structures[run.structure] for run in planned])
        walks = explore.walks(self.config, planned, models, potentials, starts, limit, folder, self.watch)
        found = explore.seen(walks, potentials, limit, reference.MOST_FORCE)
        if found is None:
            return walks, None, {}
        met = {"met": len(found.data), "beyond": int(found.beyond.sum())}
        self.tell(
            f"{name}: {counted(len(walks), 'run')} met {counted(met['met'], 'frame')}, "
            f"{met['beyond']} beyond {1000 * threshold:.0f} meV/Å"
        )
        return walks, found, {**met, "threshold": threshold, "factor": factor}

    def _choice(self, k: int, found: explore.Seen, potential: Potential, satisfied: bool) -> Choice:
        left = max(1, self.config.frames - self.config.at_end - self._counted(k - 1, final=True))
        known = features(potential, read_dataset(self.folder / files.DATA))
        places = features(potential, found.data)
        random = np.random.default_rng([self.config.seed, 4, k])
        count = min(self.config.per_round, left)
        return choose(found.worst, found.beyond, places, known, count, satisfied, random)

    def _counted(self, k: int, final: bool) -> int:
        """Frames chosen up to round k; final: and those held out after it."""
        return sum(len(files.read_chosen(place)[0]) for _, place in files.places(self.folder, k, final))

    def _compute(self, name: str, place: Path, imported: Dataset | None) -> None:
        """name: of the file that is exported."""
        chosen = files.read_chosen(place)[0]
        tasks, reasons = {}, []
        for j, reason in enumerate(chosen.group):
            path = self._label(atoms := chosen.atoms(j))
            if path not in tasks and not path.exists():
                tasks[path] = atoms
                reasons.append(str(reason))
        if not tasks:
            return
        if self.config.export:
            where = Path(os.path.normpath(self.folder / self.config.export)) / f"{name}.extxyz"
            if imported is None:
                export(where, list(tasks.values()), reasons)
                raise Exported(shown(where), len(tasks))
            labels = imported_labels(imported, list(tasks.values()), shown(where))
            for path, label in zip(tasks, labels, strict=True):
                write_json(path, label)
            return
        source, workers = reference.absolute(self.config.reference, self.folder), self.config.workers
        for path in reference.compute_all(source, list(tasks.items()), workers, self.folder):
            label = reference.read_labels(path, len(tasks[path]))
            if "failed" in label:
                self.tell(f"warning: {name}: {shown(path)}: skipped: {label['failed']}")

    def _gather(self, k: int, final: bool = False) -> None:
        """data.h5 of all rounds up to this one; final: and of what was held out after it."""
        path = self.folder / files.DATA
        there = read_dataset(path).attrs if path.exists() else {}
        if there.get("round") == k and (there.get("final", False) or not final):
            return
        parts = []
        for j, place in files.places(self.folder, k, final):
            chosen = files.read_chosen(place)[0]
            labels = log.labels(self.folder, chosen)
            if all("failed" in label for label in labels):
                if place.name == files.FINAL:
                    continue
                raise UserError(
                    f"round {j}: none of {counted(len(labels), 'frame')} could be computed; the first: "
                    f"{labels[0]['failed']}; they are tried again where their files in "
                    f"{shown(self.folder / files.LABELS)} are removed"
                )
            chosen.group = np.array([f"round {j}, {reason}" for reason in chosen.group], dtype=object)
            parts.append(labelled(chosen, labels))
        attributes = {"round": k, "level_of_theory": self.config.reference or "imported"}
        computed = concatenate(parts)
        reasons = [str(group).partition(", ")[2] for group in computed.group]
        computed.weight = weights(computed, np.isin(reasons, (RANDOM, HELD_OUT)))
        given = [read_dataset(self.folder / files.GIVEN)] if (self.folder / files.GIVEN).exists() else []
        data = concatenate([*given, computed], attributes | ({"final": True} if final else {}))
        names = [identity(data.atoms(j)) for j in range(len(data))]
        data = data.subset(np.sort(np.unique(names, return_index=True)[1]))
        self._check_stress(data)
        for begun in round_folder(self.folder, k).glob("fit_*"):  # with fewer frames
            shutil.rmtree(begun, ignore_errors=True)
        write_dataset(path, data)

    def _check_stress(self, data: Dataset) -> None:
        solid = data.pbc.all(axis=1)
        if self.config.pressure is not None and solid.any() and not data.known("stress")[solid].any():
            raise UserError(
                "--pressure: expected a reference that gives stress, found none: without it a potential's "
                "pressure is not fitted"
            )

    def _test(self, name: str, place: Path, group: str, models: Sequence[Path]) -> None:
        """Errors of models on the frames of `group`, none of which they were fitted to."""
        path = place / files.TESTED
        if path.exists():
            return
        chosen = files.read_chosen(place)[0]
        drawn = chosen.subset(np.flatnonzero(chosen.group == group))
        found = labelled(drawn, log.labels(self.folder, drawn))
        if len(found):
            tested = Measured.of(found, forecast([Potential.load(model) for model in models], found))
        else:
            tested = Measured.joined([])
        tested.write(path)
        self.tell(
            f"{name}: {counted(len(tested), 'frame')} {group}: error {1000 * tested.rms('error'):.3g}, "
            f"deviation {1000 * tested.rms('deviation'):.3g} meV/Å"
        )

    def _ended(self, k: int) -> str:
        config, tests = self.config, self.tests()
        certain = k > 0 and files.read_chosen(round_folder(self.folder, k))[1]["beyond"] == 0
        if certain and tests[-1].rms("error") <= config.target / 1000:
            return REACHED
        if max(self._counted(k, False) + config.at_end, self._counted(k, True)) >= config.frames:
            return f"--frames {config.frames} are computed"
        if k >= config.max_rounds:
            return f"--max-rounds {config.max_rounds} are over"
        rounds, fits = self._seconds.get("round", 0.0), self._seconds.get("fit", 0.0)
        if self.elapsed() + 2 * rounds + (config.final_fit - 1) * fits > config.max_seconds:
            return f"--max-time {config.max_time} is over, but for the final fit and its test"
        return ""

    def _fit(self, k: int) -> None:
        given = [self.folder / f"given_{j + 1}.h5" for j in range(self.stored.parents)]
        parents = self._committee(k - 1) if k else given
        began = time.monotonic()
        self._fit_all(self.config.fit_steps, round_folder(self.folder, k), parents)
        self._took("fit", began)
        self._tell_fit(f"round {k}")

    def _finish(self, k: int) -> None:
        """The final fit, with all frames, and its test on others.

        It begins with the last round's weights, but at the rate of a fresh fit: at half of that it ended with
        larger errors. Models that were given are not moved so far.
        """
        folder = files.final_folder(self.folder, k)
        folder.mkdir(exist_ok=True)
        given = [self.folder / f"given_{j + 1}.h5" for j in range(self.stored.parents)]
        steps = self.config.final_fit * self.config.fit_steps
        rate = committee.REFIT_RATE if given else math.inf
        if not committee.model_paths(folder, self.config.members)[-1].exists():
            self.tell(f"final fit: {steps} steps for each of {counted(self.config.members, 'model')}")
        self._fit_all(steps, folder, self._committee(k - 1) if k else given, rate)
        self._tell_fit("final fit")
        if not (folder / files.CHOSEN).exists():
            self._hold_out(k, folder)
        self._test_final(k, None)

    def _test_final(self, k: int, imported: Dataset | None) -> None:
        """On what is held out after round k, where frames were chosen for it: before anything else, so that
        nothing is fitted to them earlier."""
        folder = files.final_folder(self.folder, k)
        if not (folder / files.CHOSEN).exists():
            return
        files.remove_dynamics(folder)
        self._compute(f"final_{k}", folder, imported)
        self._test("final fit", folder, HELD_OUT, committee.model_paths(folder, self.config.members))
        self._gather(k, final=True)
        self._write_log()

    def _fit_all(
        self, steps: int, folder: Path, parents: Sequence[Path], rate: float = committee.REFIT_RATE
    ) -> None:
        fit, members, data = Config.from_dict(self.stored.fit), self.config.members, self.folder / files.DATA
        made = committee.fit(fit, steps, data, folder, parents, members, self.watch, rate)
        for path, target in zip(made, self.models(), strict=True):
            files.copy(path, target)

    def _tell_fit(self, when: str) -> None:
        rmse = 1000 * committee.left_out_rmse(self.models())
        self.tell(f"{when}: models fitted; error {rmse:.3g} meV/Å on the frames that each leaves out")


def _chosen(
    found: explore.Seen, frames: Sequence[int], reasons: Sequence[str], met: Mapping[str, Any]
) -> Dataset:
    chosen = found.data.subset(frames)
    chosen.group, chosen.attrs = np.array(reasons, dtype=object), dict(met)
    return chosen
