"""The potential: settings, weights and constants in one object; energies, forces and stress of structures."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from eqpot import backend as backends
from eqpot.config import ModelConfig
from eqpot.engines import choice
from eqpot.engines.fitted import Fitted
from eqpot.engines.observables import Prediction
from eqpot.errors import UserError
from eqpot.files import new_hdf5, own_hdf5
from eqpot.network.model import Model, Selection
from eqpot.network.params import Params
from eqpot.network.zbl import ZBL
from eqpot.schema import TABLE, Array, Rule, check, number
from eqpot.settings import HUGE
from eqpot.structures.graph import Batch, FrameGraph, collate, frame_graph
from eqpot.threads import new_lock, one_at_a_time

FORMAT, VERSION = "eqpot-model", 2
# What a model file holds beside the settings, "config"; the weights are `_weights`.
DTYPE: Rule = ("float32 or float64", lambda value: value in ("float32", "float64"))
MEAN_NEIGHBOURS = number(low=1e-3, high=1e6)
PROVENANCE: Rule = (
    "a table of finite numbers and texts, in which closest holds distances above 0 by pair of elements",
    lambda value: isinstance(value, dict) and _finite(value) and _are_distances(value.get("closest", {})),
)
ELEMENTS = {
    "species": Array(np.integer, ("elements",), low=1, high=len(chemical_symbols) - 1, rising=True),
    "scale": Array(np.float64, ("elements",), above=0, high=HUGE),
    "shift": Array(np.float64, ("elements",), low=-HUGE, high=HUGE),
}
MOST_WEIGHT = 1e9  # they begin with 1; products of larger ones leave the range of float32
MOST_PARAMETERS = 50_000_000  # far more than fits have needed; training keeps several copies


@dataclass(frozen=True)
class Result:
    """What a structure has: energy (eV), forces [n, 3] (eV/Å), energies of the atoms [n] (eV), and stress [3,
    3] (eV/Å^3, positive under tension), None without periodicity in all three directions."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    energies: np.ndarray


class Potential:
    """E = sum over atoms of scale[species] x + shift[species], where x is the network's number for the atom,
    with `isolated_atoms` less that for one without neighbours, plus the repulsion `zbl` where the settings
    ask for it, else None.

    species: atomic numbers, rising; fitted: all that the ways to compute take, see `engines`.

    Threads may share it: calls that need its buffers wait for each other.
    """

    def __init__(self, config: ModelConfig, species: Sequence[int], dtype: str, backend: str = "cpu"):
        if dtype not in ("float32", "float64"):
            raise UserError(f"dtype: expected float32 or float64, found {dtype!r}")
        self._lock = new_lock()
        self.config = replace(config, isolated_atoms=config.isolated_atoms is True)
        self.species = tuple(sorted(int(z) for z in species))
        self.dtype = dtype
        model = Model(self.config, len(self.species), 1.0)
        self.provenance: dict[str, Any] = {}
        self.fitted = Fitted(
            model=model,
            params=Params(_affordable(model.shapes(), config, dtype), dtype),
            scale=np.ones(len(self.species)),
            shift=np.zeros(len(self.species)),
            zbl=ZBL(self.species, config.cutoff, config.envelope_p) if config.zbl else None,
            backend="cpu",
        )
        if backend != "cpu":
            self._work_on(backend)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<Potential for {' '.join(chemical_symbols[z] for z in self.species)}: {c.symmetry}, "
            f"l_max {c.l_max}{c.beyond}, {c.features} features, {c.blocks} blocks, cutoff {c.cutoff:g} Å, "
            f"{self.dtype}>"
        )

    @classmethod
    def create(
        cls,
        species: Sequence[str | int],
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        **settings: Any,
    ) -> Self:
        """An untrained potential for some elements (symbols or atomic numbers); settings as in `[model]`."""
        potential = cls(ModelConfig.from_dict(ModelConfig.completed(settings)), _numbers(species), dtype)
        potential.params.flat[:] = potential.model.initial(seed, dtype).flat
        return potential.to(device)

    def to(self, device: str) -> Self:
        """Itself, from now on at work on "cpu", "cuda", or what "auto" finds.

        UserError where there is no GPU to be used.
        """
        backend = backends.resolve(device)
        if backend != self.backend:
            self._work_on(backend)
        return self

    def _work_on(self, backend: str) -> None:
        self.params.move(backends.to_device(backends.to_host(self.params.flat), backend))
        self.fitted = replace(self.fitted, backend=backend)

    @property
    def model(self) -> Model:
        """The network's layout."""
        return self.fitted.model

    @property
    def params(self) -> Params:
        """The weights, on the GPU where backend is "cuda"."""
        return self.fitted.params

    @property
    def scale(self) -> np.ndarray:
        """float64 [Z], eV."""
        return self.fitted.scale

    @scale.setter
    def scale(self, value: np.ndarray) -> None:
        self.fitted.scale[:] = value

    @property
    def shift(self) -> np.ndarray:
        """float64 [Z], eV."""
        return self.fitted.shift

    @shift.setter
    def shift(self, value: np.ndarray) -> None:
        self.fitted.shift[:] = value

    @property
    def zbl(self) -> ZBL | None:
        """The repulsion of nuclei, where the settings ask for it."""
        return self.fitted.zbl

    @property
    def backend(self) -> str:
        """Where it computes."""
        return self.fitted.backend

    @property
    def mean_neighbours(self) -> float:
        """Edges per atom in the training set, by which sums over neighbours are normalised."""
        return self.model.mean_neighbours

    @mean_neighbours.setter
    def mean_neighbours(self, value: float) -> None:
        model = Model(self.config, len(self.species), float(value))
        self.fitted = replace(self.fitted, model=model)

    def __getstate__(self) -> dict[str, Any]:
        """Settings and weights: copies and pickles take no working memory along."""
        names = ("config", "species", "dtype", "backend", "scale", "shift", "mean_neighbours", "provenance")
        flat = backends.to_host(self.params.flat)
        return {name: getattr(self, name) for name in names} | {"flat": flat}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*(state[name] for name in ("config", "species", "dtype", "backend")))
        self.scale[:], self.shift[:] = state["scale"], state["shift"]
        self.params.flat[:] = backends.to_device(state["flat"], self.backend)
        self.mean_neighbours, self.provenance = state["mean_neighbours"], state["provenance"]

    def frozen(self) -> Self:
        """A copy with weights that nobody can write to: no call needs to look whether they changed."""
        copied = deepcopy(self)
        if copied.backend == "cpu":
            for array in (copied.scale, copied.params.flat, *copied.params.values()):
                array.flags.writeable = False
        return copied

    def cast(self, dtype: str, backend: str | None = None) -> Self:
        """A copy that computes in another precision, or by another backend."""
        copied = type(self)(self.config, self.species, dtype, backend or self.backend)
        copied.params.flat[:] = backends.to_device(backends.to_host(self.params.flat), copied.backend)
        copied.scale[:], copied.shift[:] = self.scale, self.shift
        copied.mean_neighbours, copied.provenance = self.mean_neighbours, deepcopy(self.provenance)
        return copied

    def without(self, paths_off: Selection) -> Self:
        """A copy in which some paths send nothing; UserError at what is no path of the model.

        paths_off: a set of (block, path), such as (2, "1x1->0"), blocks from 1; a path alone stands for all
        blocks that have it, a block alone for all of its paths. What remains is not fitted anew: the change
        tells what the other weights have come to rely on.
        """
        copied = deepcopy(self)
        copied.model.switch_off(copied.params, paths_off)
        return copied

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write a model file (HDF5: arrays, and JSON for settings and origin); UserError where `load` would
        not take it."""
        arrays = {"species": np.array(self.species, np.int64), "scale": self.scale, "shift": self.shift}
        arrays |= {f"params/{name}": backends.to_host(array) for name, array in self.params.items()}
        for name, array in (ELEMENTS | _weights(self.model, self.dtype)).items():
            array.check_values(arrays[name], f"{path}: {name}")
        check(self.mean_neighbours, MEAN_NEIGHBOURS, f"{path}: mean_neighbours")
        with new_hdf5(path) as file:
            file.attrs.update(
                format=FORMAT,
                version=VERSION,
                config=json.dumps(asdict(self.config)),
                dtype=self.dtype,
                mean_neighbours=self.mean_neighbours,
                provenance=json.dumps(self.provenance),
            )
            for name, array in arrays.items():
                file[name] = array

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read a model file; UserError where it is missing, damaged or something else, and as in `to`."""
        with own_hdf5(path, FORMAT, VERSION) as file:
            dtype, settings = file.attribute("dtype", DTYPE), file.json("config", TABLE)
            try:
                config = ModelConfig.from_file(settings)
            except UserError as e:
                raise UserError(f"{path}: {e}") from e
            mean_neighbours = file.attribute("mean_neighbours", MEAN_NEIGHBOURS)
            provenance = file.json("provenance", PROVENANCE)
            arrays = file.arrays(ELEMENTS)
            species = arrays["species"].tolist()
            weights = file.arrays(_weights(Model(config, len(species), mean_neighbours), dtype))
        potential = cls(config, species, dtype)
        potential.mean_neighbours, potential.provenance = mean_neighbours, provenance
        potential.scale[:], potential.shift[:] = arrays["scale"], arrays["shift"]
        for name, array in potential.params.items():
            array[...] = weights[f"params/{name}"]
        return potential.to(device)

    # ---- structures

    def graph(self, atoms: Atoms, name: str = "structure") -> FrameGraph:
        """Neighbours in a structure; UserError, beginning with `name`, where `evaluate` does not take it."""
        geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
        return frame_graph(*geometry, self.species, self.config.cutoff, name)

    def check(self, atoms: Atoms, name: str) -> None:
        """UserError, beginning with `name`, at a structure that `evaluate` does not take."""
        self.graph(atoms, name)

    def evaluate(
        self, atoms: Atoms | Sequence[Atoms], paths_off: Selection = frozenset()
    ) -> Result | list[Result]:
        """Energy, forces and stress of one structure, or of each of several, taken together as one batch.

        paths_off: as in `without`, here for one call; EqpotCalculator keeps it for many.

        UserError at anything but structures, an element that the potential has not learned, a position that
        is not finite, a periodic cell without volume, or what is no path of the model.
        """
        if paths_off:
            return self.without(paths_off).evaluate(atoms)
        if isinstance(atoms, Atoms):
            return self.evaluate([atoms])[0]
        structures = list(atoms) if isinstance(atoms, Iterable) else [atoms]
        for a in structures:
            if not isinstance(a, Atoms):
                raise UserError(
                    f"atoms: expected an ase.Atoms or a list of them, found {type(a).__name__}; "
                    "ase.io.read makes them from files"
                )
        return self.of_graphs([self.graph(a, f"structure {k}") for k, a in enumerate(structures)])

    def of_graphs(self, graphs: Sequence[FrameGraph]) -> list[Result]:
        """What `evaluate` returns for the structures that these were made from by `graph`."""
        if not graphs:
            return []
        batch = collate(graphs, len(self.species))
        return results(batch, self.predict(batch, forces=True, stress=batch.has_volume))

    # ---- batches

    @one_at_a_time
    def predict(self, batch: Batch, forces: bool = True, stress: bool = False) -> Prediction:
        """Energies, and forces and stress where asked for, of a batch, in arrays of NumPy.

        All ways to compute, see `engines.choice`, are equal to round-off. UserError at a batch that a GPU
        cannot hold.
        """
        return choice.predict(self.fitted, batch, forces, stress)

    @one_at_a_time
    def loss_gradient(
        self, batch: Batch, loss: Callable[[Prediction], tuple], stress: bool = False
    ) -> tuple[tuple, np.ndarray]:
        """What `loss(prediction)` returns, and the gradient of its value by the weights, laid out as
        params.flat.

        `loss` returns (value, anything, dL/dE [f], dL/dF [n, 3], dL/dS [f, 3, 3]) for a prediction whose
        atoms are in the batch's order; arrays here and there are on the GPU where the potential is. The
        gradient is a buffer that the thread's next call overwrites.
        """
        return choice.gradient(self.fitted, batch, loss, stress)


def _weights(model: Model, dtype: str) -> dict[str, Array]:
    """Arrays of a model file."""
    number = np.dtype(dtype).type
    return {
        f"params/{name}": Array(number, shape, low=-MOST_WEIGHT, high=MOST_WEIGHT)
        for name, shape in model.shapes().items()
    }


def _finite(value: Any) -> bool:
    """Whether all floats in something of JSON are."""
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _are_distances(value: Any) -> bool:
    return isinstance(value, dict) and all(number(above=0)[1](x) for x in value.values())


def _affordable(
    shapes: dict[str, tuple[int, ...]], config: ModelConfig, dtype: str
) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights; UserError where they are too many to be meant."""
    count = sum(map(math.prod, shapes.values()))
    if count > MOST_PARAMETERS:
        size = count * np.dtype(dtype).itemsize / 1e9
        names = ("features", "blocks", "basis_size", "radial_depth", "radial_width")
        settings = ", ".join(f"{name} {getattr(config, name)}" for name in names)
        raise UserError(
            f"model: expected settings with at most {MOST_PARAMETERS:,} parameters, found {count:,}, which "
            f"would take {size:.3g} GB as {dtype} ({settings})"
        )
    return shapes


def _numbers(species: Sequence[str | int]) -> list[int]:
    """Atomic numbers of elements given by symbol or number."""
    found = set()
    for s in species:
        if s not in atomic_numbers and not (
            isinstance(s, int | np.integer) and 0 < s < len(chemical_symbols)
        ):
            raise UserError(f"species: expected symbols or atomic numbers of elements, found {s!r}")
        found.add(atomic_numbers[s] if isinstance(s, str) else int(s))
    if not found:
        raise UserError("species: expected at least one element, found none")
    return sorted(found)


def results(batch: Batch, prediction: Prediction) -> list[Result]:
    """Of each structure of a batch, its atoms in their own order."""
    energies, forces = prediction.energies[batch.place], prediction.forces[batch.place]
    ends = np.cumsum(batch.atom_counts)
    return [
        Result(
            energy=float(prediction.energy[k]),
            forces=forces[end - count : end].copy(),
            stress=None if np.isnan(batch.volume[k]) else prediction.stress[k],
            energies=energies[end - count : end].copy(),
        )
        for k, (end, count) in enumerate(zip(ends, batch.atom_counts, strict=True))
    ]
