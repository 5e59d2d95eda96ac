"""Fine-tuning: a fit that begins with the weights of another potential, its parent.

    E = sum over atoms of scale[species] x + shift[species]

The network's weights, its scale and the mean number of neighbours that it divides by are the parent's, so
that forces begin where the parent left them; an element that the parent does not know gets fresh weights and
the parent's scale. The shifts are fitted anew, to what the parent leaves of the energies,

    E - E_parent ~ sum over elements of n_Z dshift_Z        (least squares, the shortest solution)

since other settings of the reference method move all energies by hundreds of eV, which no weight can follow
and no force feels. Where data of the parent are replayed, their energies are moved by the same dshift: what
counts of them is the energy beside the shifts, which stays what it was.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from ase.data import chemical_symbols

from eqpot.config import PRESETS, Config
from eqpot.errors import UserError
from eqpot.files import sha256
from eqpot.network.isolated import isolated_frames
from eqpot.network.model import Model
from eqpot.network.params import Params
from eqpot.structures.data import Dataset, repeated
from eqpot.structures.frames import Frames
from eqpot.training.statistics import energy_shifts, shifts_left
from eqpot.training.validation import errors, predict
from eqpot.words import counted

if TYPE_CHECKING:
    from eqpot.potential import Potential

LEARNING_RATE = 0.002  # a fifth of a fresh fit's
FOREIGN = 0.1  # eV/atom, more than a fit leaves: energies are of another level or other atoms
REPLAY = "replay"  # group of the frames that are replayed


@dataclass(frozen=True)
class Parent:
    """The potential that a fit begins with, and its file."""

    potential: "Potential"
    path: str
    hash: str

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """UserError as of `Potential.load`."""
        from eqpot.potential import Potential

        return cls(Potential.load(path), str(path), sha256(path))

    @property
    def name(self) -> str:
        """With its folder, since most are called model.h5."""
        return str(Path(*Path(self.path).parts[-2:]))

    def settings(self, tables: Mapping[str, Mapping[str, Any]]) -> Config:
        """Settings of a fit from it, which `tables` (as of `Config.from_dict`) change.

        UserError where they contradict those of its model.
        """
        model = self.potential.config
        train = {"learning_rate": LEARNING_RATE, "dtype": self.potential.dtype}
        preset = tables.get("preset", "default")
        wished = Config.from_dict(tables)  # which checks all of them
        given = {**PRESETS[preset].get("model", {}), **tables.get("model", {})}
        for key in given:
            self._check_same(key, getattr(wished.model, key))
        return wished.replace({"model": model.to_dict(), "train": {**train, **tables.get("train", {})}})

    def check(self, config: Config) -> None:
        """UserError where settings contradict those of its model."""
        for key, value in config.model.to_dict().items():
            self._check_same(key, value)
        if config.train.scale != "force_rms":
            raise UserError(
                f"train.scale: expected force_rms with --from, which keeps the scale of {self.path}, "
                f"found {config.train.scale}"
            )

    def _check_same(self, key: str, value: Any) -> None:
        mine = getattr(self.potential.config, key)
        if value != mine and not (key == "isolated_atoms" and value == "auto"):
            raise UserError(f"model.{key}: expected {mine!r}, as {self.path} has it, found {value!r}")

    def extended(self, species: Sequence[int], seed: int, dtype: str) -> "Potential":
        """A copy that knows the elements `species` as well, whose shifts are 0."""
        from eqpot.potential import Potential

        parent = self.potential
        species = sorted({*species, *parent.species})
        made = Potential.create(species, seed, dtype, **parent.config.to_dict())
        known = [species.index(z) for z in parent.species]
        by_element = _by_element(made.model)
        for name, array in made.params.items():
            array[known if name in by_element else ...] = parent.params[name]
        made.scale[:] = parent.scale.mean()
        made.scale[known], made.shift[known] = parent.scale, parent.shift
        made.mean_neighbours = parent.mean_neighbours
        return made

    def told(self, potential: "Potential") -> str:
        """What a potential has of it, and what not."""
        fresh = [chemical_symbols[z] for z in potential.species if z not in self.potential.species]
        return "weights, scale and mean neighbours" + f"; fresh weights for {' '.join(fresh)}" * bool(fresh)

    def shifts(
        self, potential: "Potential", data: Dataset, wanted: str | Mapping[str, float]
    ) -> tuple[np.ndarray, str]:
        """Shift of each element of `potential`, `extended` to those of `data`, eV; and a line about them.

        wanted: as `train.shifts`.
        """
        symbols = [chemical_symbols[z] for z in potential.species]
        new = [z for z in data.species if z not in self.potential.species]
        fitted = [z for z in data.species if wanted != "parent" or z in new]
        shifts = potential.shift.copy()
        places = [potential.species.index(z) for z in fitted]
        known = data.known("energy")
        if isinstance(wanted, Mapping):
            shifts[places] = energy_shifts(data, wanted)
            how = "from train.shifts or isolated atoms"
        elif not (known.any() and fitted):
            how = f"of {self.name}"
        else:
            frames = Frames(data.subset(known), potential.species, potential.config.cutoff)
            shifts[places] += shifts_left(potential, frames, fitted)
            how = f"fitted to what {self.name} leaves of the energies"
        changes = zip(symbols, shifts, shifts - potential.shift, strict=True)
        listed = ", ".join(f"{symbol} {shift:.6g} ({change:+.3g})" for symbol, shift, change in changes)
        return shifts, f"shifts {how}: {listed} eV"

    def replayed(
        self, replay: Dataset, potential: "Potential", valid: Dataset, n_replay: int, seed: int
    ) -> tuple[Dataset, str, str]:
        """Frames of `replay` to train on as well, in a group of their own, with energies by the shifts of
        `potential`, a line about them, and one that doubts that they are the parent's own, or none.

        Left out: isolated atoms, frames of weight 0, and what repeats frames to validate on. n_replay: how
        many are drawn, by the seed; 0: all. UserError at elements that the parent does not know.
        """
        unknown = [chemical_symbols[z] for z in replay.species if z not in self.potential.species]
        if unknown:
            raise UserError(
                f"{replay.path}: expected elements that {self.path} knows in frames to replay, "
                f"found {', '.join(unknown)}"
            )
        left = ~repeated(valid, replay)
        left[isolated_frames(replay, potential.config.cutoff)] = False
        if replay.weight is not None:
            left &= replay.weight > 0
        kept = np.flatnonzero(left)
        if n_replay > len(kept):
            raise UserError(
                f"{replay.path}: train.n_replay: expected at most the {len(kept)} frames that may be "
                f"replayed, found {n_replay}"
            )
        random = np.random.default_rng([seed, 2])
        drawn = replay.subset(np.sort(random.permutation(kept)[: n_replay or None]))
        if not len(drawn):
            raise UserError(
                f"{replay.path}: expected frames to replay, found only repeats of validation frames"
            )
        doubt = self._doubt(drawn)
        energy = drawn.energy
        if energy is not None:
            before = dict(zip(self.potential.species, self.potential.shift, strict=True))
            after = dict(zip(potential.species, potential.shift, strict=True))
            change = np.array([after[z] - before[z] for z in drawn.species])
            energy = energy + drawn.composition() @ change
        group = np.full(len(drawn), REPLAY, dtype=object)
        count = counted(len(drawn), "frame")
        told = f"{count} of {replay.path}, in the group {REPLAY}, energies moved by the change of the shifts"
        return replace(drawn, energy=energy, group=group), told, doubt

    def _doubt(self, replay: Dataset) -> str:
        """Whether frames are not what the parent was fitted to: its own errors on them tell."""
        frames = Frames(replay, self.potential.species, self.potential.config.cutoff)
        found = errors(frames.dataset, predict(self.potential, frames))
        energy, forces = found["energy_per_atom_rmse"] or 0.0, found["forces_rmse"] or 0.0
        own = self.potential.provenance.get("valid_forces_rmse", np.inf)
        if energy < FOREIGN and forces < 5 * own:
            return ""
        return (
            f"{replay.path}: expected data that {self.name} was fitted to, found its errors on them to be "
            f"{1000 * forces:.3g} meV/Å and {1000 * energy:.3g} meV/atom: replaying them ruins it"
        )


def _by_element(model: Model) -> set[str]:
    """Arrays that have a row for each element."""
    return {"embedding", *(matrix.name for matrix in model.matrices() if matrix.per_species)}


def _groups(name: str) -> tuple[str, ...]:
    """Names in `train.freeze` that an array of weights goes by."""
    first, _, rest = name.partition(".")
    if first == "embedding":
        return ("embedding",)
    if first in ("frequencies", "radial") or rest == "radial":
        return ("radial",)
    if first == "output":
        return ("readout",)
    return "blocks", f"block{int(first.removeprefix('block')) + 1}"


def frozen(
    model: Model, names: Collection[str], species: Sequence[int], known: Sequence[int]
) -> np.ndarray | None:
    """Which weights stay as they are, bool, laid out like the model's; None: none do.

    names: as `train.freeze`; of what is kept for each of `species` the rows of `known` ones stay. UserError
    at a block that there is none of, and where no matrix is left to learn.
    """
    if not names:
        return None
    if not len(known):
        raise UserError("train.freeze: expected --from MODEL, whose weights are to stay, found none")
    held, by_element = Params(model.shapes(), bool), _by_element(model)
    there = {group for name in held for group in _groups(name)}
    for name in names:
        if name not in there:
            raise UserError(f"train.freeze: expected a block up to block{len(model.blocks)}, found {name}")
    rows = [list(species).index(z) for z in known]
    for name, array in held.items():
        if not set(_groups(name)).isdisjoint(names):
            array[rows if name in by_element else ...] = True
    if all(held[matrix.name].all() for matrix in model.matrices()):
        raise UserError(f"train.freeze: expected weights that are left to learn, found {', '.join(names)}")
    return held.flat
