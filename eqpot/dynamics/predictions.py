"""All frames of a file with energies, forces and stress, into one extxyz file; read and written in parts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from ase import Atoms

from eqpot.config import DynamicsConfig
from eqpot.dynamics.limits import closer_than, closest_approach, unlike
from eqpot.engines.observables import Prediction
from eqpot.errors import UserError
from eqpot.potential import Potential, Result, results
from eqpot.structures.data import LABELS, Dataset
from eqpot.structures.frames import Labels
from eqpot.structures.graph import Batch, collate
from eqpot.structures.trajectory import PREDICTED, iterate
from eqpot.structures.xyz_frames import frame_text
from eqpot.threads import beside_kernels, later
from eqpot.training.validation import Errors
from eqpot.words import counted, plain

ATOMS = 2000  # taken together


@dataclass
class Kind:
    """Frames of which the same is to be told: a line about the first, and how many there are."""

    first: str = ""
    count: int = 0

    def add(self, name: str, line: str) -> None:
        """line: empty for a frame that is not one of them."""
        if line:
            self.first, self.count = self.first or f"{name}: {line}", self.count + 1

    def more(self) -> str:
        return f" ({counted(self.count, 'frame')} of this kind in all)" if self.count > 1 else ""


@dataclass
class _Part:
    """Frames taken together."""

    frames: list[Atoms]
    batches: list[Batch]  # of each model


class Predictions:
    """Of all frames of a file, written as extxyz.

    close, odd: frames with atoms closer than dynamics allows, and unlike training. errors, known: against
    labels that frames carry, and how many have each. frames, atoms: how many there were.
    """

    def __init__(
        self, models: list[str], potentials: list[Potential], file: str, out: TextIO, against: bool
    ) -> None:
        self.models, self.potentials = models, potentials
        self.file, self.out, self.against = file, out, against
        self.parts = _together(iterate(file, labelled=against, grouped=True))
        self.limits = closest_approach(potentials, potentials[0].species, DynamicsConfig().min_distance)
        self.close, self.odd = Kind(), Kind()
        self.errors, self.known = Errors(), Counter()
        self.frames = self.atoms = 0

    def make(self) -> None:
        """Kernels leave Python alone, so that text is read and written beside them."""
        with beside_kernels():
            part, made = None, []
            ahead = later(self._turn, part, made)
            while coming := ahead.result():
                ahead = later(self._turn, part, made)
                part = coming
                made = [
                    p.predict(batch, forces=True, stress=batch.has_volume)
                    for p, batch in zip(self.potentials, part.batches, strict=True)
                ]
            self._turn(part, made)

    def _turn(self, part: _Part | None, made: list[Prediction]) -> _Part | None:
        """Write one part, and read the next; None for none."""
        if part is not None:
            self._finish(part, made)
        frames = next(self.parts, None)
        return None if frames is None else _Part(frames, self._batches(frames))

    def _batches(self, frames: list[Atoms]) -> list[Batch]:
        """Of each model, made once for models that see as far."""
        names = [f"{self.file}: frame {atoms.info['frame']}" for atoms in frames]
        graphs = {}
        for model, p in zip(self.models, self.potentials, strict=True):
            asked = f", {model}" if len(self.models) > 1 else ""
            if _reach(p) not in graphs:
                graphs[_reach(p)] = [p.graph(a, name + asked) for a, name in zip(frames, names, strict=True)]
        first = self.potentials[0]
        for name, graph, atoms in zip(names, graphs[_reach(first)], frames, strict=True):
            self.close.add(name, closer_than(self.limits, graph, first.species))
            self.odd.add(name, unlike(first, graph, atoms.pbc.any()))
        batches = {key: collate(of_frames, len(key[0])) for key, of_frames in graphs.items()}
        return [batches[_reach(p)] for p in self.potentials]

    def _finish(self, part: _Part, made: list[Prediction]) -> None:
        """Write the frames of a part with what each model predicts."""
        predicted_by = ", ".join(map(plain, self.models))
        labels = _labels(part.frames, self.file) if self.against else None
        found = [results(*pair) for pair in zip(part.batches, made, strict=True)]
        for atoms, of_models in zip(part.frames, zip(*found, strict=True), strict=True):
            atoms.info[PREDICTED] = predicted_by
            _add_results(atoms, of_models, f"{self.file}: frame {atoms.info['frame']}")
            self.out.write(frame_text(atoms))
        if labels is not None:
            self.errors.add(labels, _as_labels(part.frames))
            self.known.update({label: int(labels.known(label).sum()) for label in LABELS})
        self.frames, self.atoms = self.frames + len(part.frames), self.atoms + sum(map(len, part.frames))


def _reach(potential: Potential) -> tuple:
    """What a graph depends on."""
    return tuple(potential.species), potential.config.cutoff


def _together(frames: Iterable[Atoms]) -> Iterator[list[Atoms]]:
    """As many of them as have ATOMS atoms, and at least one."""
    some: list[Atoms] = []
    for atoms in frames:
        if some and sum(map(len, some)) + len(atoms) > ATOMS:
            yield some
            some = []
        some.append(atoms)
    if some:
        yield some


def _labels(frames: list[Atoms], file: str) -> Dataset:
    """The frames with the labels that they carry, NaN where they have none.

    UserError at labels that are no finite numbers of the right shape.
    """

    def label(atoms: Atoms, name: str, shape: tuple[int, ...]) -> np.ndarray:
        found = atoms.calc.results.get(name) if atoms.calc else None
        if found is None:
            return np.full(shape, np.nan)
        where = f"{file}: frame {atoms.info['frame']}, {name}"
        try:
            values = np.asarray(found, float)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: expected numbers, found {str(found)[:40]!r}") from error
        if name == "stress" and values.shape == (6,):
            values = values[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        if values.shape != shape or not np.isfinite(values).all():
            what = "NaN or infinity" if values.shape == shape else f"shape {values.shape}"
            raise UserError(f"{where}: expected finite numbers of shape {shape}, found {what}")
        return values if name != "stress" or atoms.pbc.all() else np.full(shape, np.nan)

    groups = np.array([str(atoms.info.get("config_type", "")) for atoms in frames], dtype=object)
    return Dataset(
        atom_ptr=np.concatenate([[0], np.cumsum([len(atoms) for atoms in frames])]),
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        positions=np.concatenate([atoms.positions for atoms in frames]),
        cell=np.array([atoms.cell[:] for atoms in frames]),
        pbc=np.array([atoms.pbc for atoms in frames]),
        energy=np.array([label(atoms, "energy", ()) for atoms in frames]),
        forces=np.concatenate([label(atoms, "forces", (len(atoms), 3)) for atoms in frames]),
        stress=np.array([label(atoms, "stress", (3, 3)) for atoms in frames]),
        group=groups,
    )


def _as_labels(done: list[Atoms]) -> Labels:
    """The predictions of some frames."""
    unknown = np.full((3, 3), np.nan)
    return Labels(
        np.array([atoms.info["energy"] for atoms in done]),
        np.concatenate([atoms.arrays["forces"] for atoms in done]),
        np.array([atoms.info.get("stress", unknown) for atoms in done]),
    )


def _add_results(atoms: Atoms, of_models: Sequence[Result], name: str) -> None:
    """Means over the models, and deviations where there are several, into info and arrays."""
    energies = np.array([r.energy for r in of_models])
    forces = np.array([r.forces for r in of_models])
    if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
        raise UserError(f"{name}: expected finite predictions of the model, found NaN or infinity")
    atoms.arrays.pop("forces_std", None)  # of another prediction
    if len(of_models) > 1:
        atoms.info["energy_std"], atoms.arrays["forces_std"] = energies.std(), forces.std(axis=0)
    atoms.info["energy"], atoms.arrays["forces"] = energies.mean(), forces.mean(axis=0)
    atoms.arrays["energies"] = np.mean([r.energies for r in of_models], axis=0)
    if of_models[0].stress is not None:
        atoms.info["stress"] = np.mean([r.stress for r in of_models], axis=0)
