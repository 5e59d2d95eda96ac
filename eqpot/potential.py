"""The potential: settings, weights and constants in one object; energies, forces and stress of structures."""

import json
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from eqpot import backend as backends
from eqpot import by_blocks
from eqpot.config import HUGE, ModelConfig
from eqpot.errors import UserError
from eqpot.evaluator import Evaluator
from eqpot.files import new_hdf5, own_hdf5
from eqpot.frames import Labels
from eqpot.graph import Batch, FrameGraph, collate, frame_graph
from eqpot.isolated import less_lone, with_lone_atoms, with_lone_seeds
from eqpot.kernels import forces as force_kernels
from eqpot.kernels.compile import exact
from eqpot.kernels.cuda import constant
from eqpot.model import ALL, Model, Selection
from eqpot.ops import convolution, operators
from eqpot.params import Params
from eqpot.pool import GpuPool, Pool
from eqpot.schema import TABLE, Array, Rule, check, number
from eqpot.tape import Node, Tape
from eqpot.threads import new_lock, one_at_a_time
from eqpot.zbl import ZBL

if TYPE_CHECKING:
    from eqpot.blocks import Blocks
    from eqpot.gpu_calls import RecordedCalls

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
FROM_VOIGT = np.array([0, 5, 4, 5, 1, 3, 4, 3, 2])  # the nine components among xx yy zz yz xz xy
NO_PAIRS = np.empty(0)
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


@dataclass
class Prediction(Labels):
    """Predictions for a batch, atoms in the batch's order; stress is NaN for structures without a 3D cell."""

    energies: np.ndarray | None = None


class Potential:
    """E = sum over atoms of scale[species] x + shift[species], where x is the network's number for the atom,
    with `isolated_atoms` less that for one without neighbours, plus the repulsion `zbl` where the settings
    ask for it, else None.

    species: atomic numbers, rising; scale, shift: float64 [Z], eV; mean_neighbours: edges per atom in the
    training set, which normalises sums over neighbours; params: the weights, on the GPU where backend is
    "cuda".

    Threads may share it: calls that need its buffers wait for each other.
    """

    def __init__(self, config: ModelConfig, species: Sequence[int], dtype: str, backend: str = "cpu"):
        if dtype not in ("float32", "float64"):
            raise UserError(f"dtype: expected float32 or float64, found {dtype!r}")
        self._lock = new_lock()
        self.config = replace(config, isolated_atoms=config.isolated_atoms is True)
        self.species = tuple(sorted(int(z) for z in species))
        self.dtype = dtype
        self.scale = np.ones(len(self.species))
        self.shift = np.zeros(len(self.species))
        self.mean_neighbours = 1.0
        self.zbl = ZBL(self.species, config.cutoff, config.envelope_p) if config.zbl else None
        self.params = Params(_affordable(self._model.shapes(), config, dtype), dtype)
        self.provenance: dict[str, Any] = {}
        self._work_on(backend)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<Potential for {' '.join(chemical_symbols[z] for z in self.species)}: {c.symmetry}, "
            f"l_max {c.l_max}, {c.features} features, {c.blocks} blocks, cutoff {c.cutoff:g} Å, {self.dtype}>"
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
        potential = cls(ModelConfig.from_dict(settings), _numbers(species), dtype)
        potential.params.flat[:] = potential._model.initial(seed, dtype).flat
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
        self.backend = backend
        self.params.move(backends.to_device(backends.to_host(self.params.flat), backend))
        self._gradients = threading.local()
        self._gradient()  # a recording on a GPU must not begin by making it
        dtype = np.dtype(self.dtype)
        self._pool = GpuPool(dtype) if backend == "cuda" else Pool(dtype, backend)
        self._evaluator = self._blocks = self._recorded = None

    @property
    def mean_neighbours(self) -> float:
        """Edges per atom that sums over neighbours are normalised by."""
        return self._mean_neighbours

    @mean_neighbours.setter
    def mean_neighbours(self, value: float) -> None:
        self._mean_neighbours = float(value)
        self._model = Model(self.config, len(self.species), self._mean_neighbours)
        self._evaluator: Evaluator | None = None
        self._blocks: Blocks | None = None
        self._recorded: RecordedCalls | None = None

    @property
    def model(self) -> Model:
        """The network's layout."""
        return self._model

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
        copied._model.switch_off(copied.params, paths_off)
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
        graphs = [self.graph(a, f"structure {k}") for k, a in enumerate(structures)]
        if not graphs:
            return []
        batch = collate(graphs, len(self.species))
        p = self.predict(batch, forces=True, stress=True)
        energies, forces = p.energies[batch.place], p.forces[batch.place]
        ends = np.cumsum(batch.atom_counts)
        return [
            Result(
                energy=float(p.energy[k]),
                forces=forces[end - count : end].copy(),
                stress=None if np.isnan(batch.volume[k]) else p.stress[k],
                energies=energies[end - count : end].copy(),
            )
            for k, (end, count) in enumerate(zip(ends, batch.atom_counts, strict=True))
        ]

    # ---- batches

    @one_at_a_time
    def predict(self, batch: Batch, forces: bool = True, stress: bool = False) -> Prediction:
        """Energies, and forces and stress where asked for, of a batch, in arrays of NumPy.

        Compiled in one piece where there is such code for the model, else by walks over the tape, on a GPU
        block by block where it could not hold the whole: equal to round-off. UserError at a batch that a GPU
        cannot hold.
        """
        if self.backend == "cpu" and Evaluator.supports(self._model):
            changeable = self.params.flat.flags.writeable
            if self._evaluator is None or changeable and not self._evaluator.holds(self.params, self.scale):
                self._evaluator = Evaluator(self._model, self.params, self.scale)
            x, found, d = self._evaluator.run(batch, forces or stress, by_edge=stress)
            return self._prediction(batch, x, None if found is None else found.copy(), d)
        if self.backend == "cuda":
            return self._predict_on_gpu(batch, forces or stress, stress)
        try:
            return self._record(batch, forces or stress, stress)[0]
        finally:
            self._pool.release()

    def _predict_on_gpu(self, batch: Batch, forces: bool, stress: bool) -> Prediction:
        if self._recorded is None:
            from eqpot.gpu_calls import RecordedCalls

            self._recorded = RecordedCalls(self)
        way = by_blocks.WHOLE
        try:
            if self._recorded.take(batch):
                return self._recorded.predict(batch, forces, stress).on("cpu")
            way = by_blocks.plan(self._model, self._pool, batch, forces)
            if way == by_blocks.BY_BLOCKS:
                self._pool.clear()
            return self.evaluated(batch, forces, stress, way).on("cpu")
        except MemoryError as e:
            raise by_blocks.too_large(self._model, self._pool, batch, forces) from e
        finally:
            if way == by_blocks.BY_BLOCKS:  # neighbours need room, and edges are others at the next step
                self._pool.clear()

    @one_at_a_time
    def evaluated(self, batch: Batch, forces: bool, stress: bool, way: str = by_blocks.WHOLE) -> Prediction:
        """What `predict` returns, on the GPU and in arrays there, by walks that nothing else follows."""
        try:
            return self._record(batch, forces, stress, evaluated=True, way=way)[0]
        finally:
            self._pool.release()

    def memory(self) -> list[np.ndarray]:
        """The arrays that walks on a GPU work in."""
        return self._pool.arrays()

    @one_at_a_time
    def loss_gradient(
        self,
        batch: Batch,
        loss: Callable[[Prediction], tuple],
        stress: bool = False,
        compiled: bool = True,
    ) -> tuple[tuple, np.ndarray]:
        """What `loss(prediction)` returns, and the gradient of its value by the weights, laid out as
        params.flat.

        The gradient is a buffer that the thread's next call overwrites.

        `loss` returns (value, anything, dL/dE [f], dL/dF [n, 3], dL/dS [f, 3, 3]) for a prediction whose
        atoms are in the batch's order; arrays here and there are on the GPU where the potential is. Four
        walks over the tape, see `eqpot.tape`; with `compiled`, all blocks are one operator where there is
        such code for the model. ZBL, which has no weights, adds a constant to each prediction: it enters the
        gradient through dL/dE, dL/dF and dL/dS alone, and the walks know nothing of it.
        """
        batch = backends.moved(batch, self.backend)
        try:
            prediction, tape, x, edge_vec, nodes = self._record(batch, True, stress, compiled)
            outcome = loss(prediction)
            _, _, grad_energy, grad_forces, grad_stress = outcome
            tape.tangent({edge_vec: self._edge_tangent(batch, grad_forces, grad_stress if stress else None)})
            gradient = self._gradient()
            gradient[:] = 0
            views = self.params.split(gradient) | {ALL: gradient[None]}
            for name, node in nodes.items():
                node.td = views[name]
            seed = self._of_species(self.scale, batch) * grad_energy[batch.frame]
            if self.config.isolated_atoms:
                seed = with_lone_seeds(seed, batch.species_ptr)
            tape.reverse_tangent({x: self._column(seed)}, nodes.values())
        finally:
            self._pool.release()
        return outcome, gradient

    def _gradient(self) -> np.ndarray:
        """The thread's buffer for it."""
        if not hasattr(self._gradients, "flat"):
            self._gradients.flat = self.params.flat * 0
        return self._gradients.flat

    def _record(
        self,
        batch: Batch,
        forces: bool,
        stress: bool,
        compiled: bool = False,
        evaluated: bool = False,
        way: str = by_blocks.WHOLE,
    ) -> tuple[Prediction, Tape, Node, Node, dict]:
        """Walks one and two; where `evaluated`, the last, by fused operators of a GPU."""
        batch = backends.moved(batch, self.backend)
        alone = self.config.isolated_atoms
        walked = with_lone_atoms(batch) if alone else batch
        lean = evaluated or way == by_blocks.BY_BLOCKS
        tape = Tape(operators(self.backend), self._pool, lean)
        arrays, blocks = self.params, None
        if compiled and self.backend == "cpu":
            from eqpot.blocks import Blocks  # only training needs it, and it takes long to import

            if Blocks.supports(self._model):
                if self._blocks is None:
                    self._blocks = Blocks(self._model, self.params.starts, self._pool)
                blocks = self._blocks.operator
                arrays = {name: self.params[name] for name in self._model.outside_blocks()}
                arrays[ALL] = self.params.flat[None]
        nodes = {name: Node(array) for name, array in arrays.items()}
        edge_vec = Node(batch.edge_vec.astype(self.dtype))
        seed = self._column(self._of_species(self.scale, walked)) if forces else None
        fused = convolution() if evaluated else None
        if way == by_blocks.BY_BLOCKS:
            x = by_blocks.run(self._model, tape, nodes, walked, edge_vec, seed, fused)
        else:
            x = self._model.run(tape, nodes, walked, edge_vec, blocks, fused)
            if forces:
                tape.reverse({x: seed}, [edge_vec])
        found = d = None
        if forces:
            d = np.zeros_like(edge_vec.value) if edge_vec.d is None else edge_vec.d
            found = np.empty_like(batch.edge_vec, shape=(len(batch.species), 3))
            run = force_kernels.forces_cuda if self.backend == "cuda" else force_kernels.forces_cpu
            run(found, d, batch.receiver_ptr, batch.sender_perm, batch.sender_ptr)
        numbers = less_lone(x.value[:, 0], batch.species_ptr) if alone else x.value[:, 0]
        prediction = self._prediction(batch, numbers, found, d if stress else None)
        return prediction, tape, x, edge_vec, nodes

    def _prediction(
        self, batch: Batch, x: np.ndarray, forces: np.ndarray | None, d: np.ndarray | None
    ) -> Prediction:
        """From the network's numbers x [n] and forces [n, 3], and d = dE/d edge_vec [E, 3] where stress is
        wanted."""
        pairs = NO_PAIRS
        if self.zbl is not None:
            pairs, zbl_forces, zbl_d = self.zbl.run(batch)
            forces = None if forces is None else forces + zbl_forces
            d = None if d is None else d + zbl_d
        if self.backend == "cuda":
            energies = self._of_species(self.scale, batch) * x + self._of_species(self.shift, batch)
            if self.zbl is not None:
                energies += pairs
            energy = _frame_sums(energies[:, None], batch)[:, 0]
        else:
            energies, energy = np.empty(len(x)), np.empty(batch.n_frames)
            _energies(energies, energy, x, self.scale, self.shift, pairs, batch.species, batch.frame)
        return Prediction(
            energy=energy,
            energies=energies,
            forces=forces,
            stress=None if d is None else self._stress(batch, d),
        )

    @staticmethod
    def _of_species(numbers: np.ndarray, batch: Batch) -> np.ndarray:
        """numbers[Z] for each atom."""
        return (constant(numbers) if batch.backend == "cuda" else numbers)[batch.species]

    def _column(self, seed: np.ndarray) -> np.ndarray:
        return seed.astype(self.dtype)[:, None]

    @staticmethod
    def _stress(batch: Batch, d: np.ndarray) -> np.ndarray:
        """(1/V) sum over edges of the symmetric part of edge_vec d^T, d = dE/d edge_vec [E, 3]; [f, 3, 3]."""
        if batch.backend == "cuda":
            virials = np.empty_like(batch.edge_vec, shape=(len(batch.species), 6))
            force_kernels.virials_cuda(virials, batch.edge_vec, d, batch.receiver_ptr)
            virial = _frame_sums(virials, batch)[:, constant(FROM_VOIGT)].reshape(-1, 3, 3)
            return virial / batch.volume[:, None, None]
        frame = batch.frame[batch.receivers]
        virial = np.empty((batch.n_frames, 3, 3))
        for a in range(3):
            for b in range(a + 1):
                product = 0.5 * (batch.edge_vec[:, a] * d[:, b] + batch.edge_vec[:, b] * d[:, a])
                virial[:, a, b] = virial[:, b, a] = np.bincount(frame, product, minlength=batch.n_frames)
        return virial / batch.volume[:, None, None]

    def _edge_tangent(
        self, batch: Batch, grad_forces: np.ndarray, grad_stress: np.ndarray | None
    ) -> np.ndarray:
        """dL/d(dE/d edge_vec) [E, 3]: the transpose of how forces and stress follow from dE/d edge_vec."""
        t = grad_forces[batch.receivers] - grad_forces[batch.senders]
        if grad_stress is not None:
            volume = batch.volume[:, None, None]
            symmetric = np.where(
                np.isnan(volume), 0.0, 0.5 * (grad_stress + grad_stress.swapaxes(1, 2)) / volume
            )
            # No einsum: it ends in cuBLAS, which cannot be recorded.
            t += (symmetric[batch.frame[batch.receivers]] * batch.edge_vec[:, None, :]).sum(axis=2)
        return t.astype(self.dtype)


@exact
def _energies(
    energies: np.ndarray,
    energy: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    pairs: np.ndarray,
    species: np.ndarray,
    frame: np.ndarray,
) -> None:
    """Fill in energies of atoms [n] and of frames [f], eV; pairs [n]: added to those of atoms, or empty."""
    energy[:] = 0
    for k in range(len(x)):
        z = species[k]
        energies[k] = scale[z] * x[k] + shift[z]
        if len(pairs):
            energies[k] += pairs[k]
        energy[frame[k]] += energies[k]


def _frame_sums(values: np.ndarray, batch: Batch) -> np.ndarray:
    """Sums of values [n, K] over the atoms of each frame [f, K], on the GPU, in one order from run to run."""
    if batch.n_frames == 1:
        return values.sum(axis=0, keepdims=True)
    sums = np.empty_like(values, shape=(batch.n_frames, values.shape[1]))
    force_kernels.frame_sums_cuda(sums, values, batch.frame)
    return sums


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
