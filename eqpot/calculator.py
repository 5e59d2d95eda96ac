"""The potential as an ASE calculator: for dynamics, relaxations, vibrations and whatever else ASE drives."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from eqpot.backend import moved, resolve
from eqpot.errors import UserError
from eqpot.network.model import Selection
from eqpot.potential import Potential
from eqpot.structures.graph import Batch, VerletList
from eqpot.threads import most_threads, new_lock, on_threads, one_at_a_time

SMALLEST = 1000  # atoms from which neighbours are better found on the GPU
WITHOUT_FORCES = {"energy", "free_energy", "energies", "energy_std"}


class EqpotCalculator(Calculator):
    """Energy, energies of the atoms (eV), forces (eV/Å) and stress (eV/Å^3) of one potential or several.

    model: path of a model file, a Potential, or a list of these; two or more are a committee. It gives the
    mean over its members and, in `results`, their standard deviations (from that mean, divided by the number
    of members): energy_std (eV), forces_std [n, 3] (eV/Å).
    The calculator keeps the weights as they are now. Threads may share it, each with its own atoms: one at a
    time calculates.
    skin: how far beyond the cutoff neighbours are remembered, Å. A wider one is searched for less often and
    has more pairs to go through at every step; the results are the same to the last bit.
    paths_off: tensor-product paths that send nothing, in each of the models; see `Potential.without`.
    threads: at most so many share a call, which is as many as pay; None: all that Numba may use. They do not
    change a bit of the results.
    device: "cpu", "cuda", or "auto": a GPU where one can be used, for models from files; a Potential stays
    where it is.

    UserError at a file that is no model, a skin that is negative or not finite, more threads than there are,
    what is no path of a model, and "cuda" without a GPU. When it calculates: at an element that a model has
    not learned, a position that is not finite, two atoms in the same place, a periodic cell without volume,
    and what a GPU has no memory for.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
    nolabel = True

    def __init__(
        self,
        model: str | Path | Potential | Sequence[str | Path | Potential],
        skin: float = 0.5,
        threads: int | None = None,
        device: str = "auto",
        paths_off: Selection = frozenset(),
    ):
        super().__init__()
        models = [model] if isinstance(model, str | Path | Potential) else list(model)
        self.is_committee = len(models) > 1
        if not models:
            raise UserError("model: expected at least one, found an empty list")
        if not 0 <= skin < np.inf:
            raise UserError(f"skin: expected a length in Å that is not negative, found {skin}")
        if threads is not None and not (type(threads) is int and 1 <= threads <= most_threads()):
            raise UserError(f"threads: expected 1 to {most_threads()}, found {threads!r}")
        self.threads, self.skin = threads, skin
        self.potentials = [
            _held(m, resolve(device), device == "auto").without(paths_off).frozen() for m in models
        ]
        self.backend = "cuda" if any(p.backend == "cuda" for p in self.potentials) else "cpu"
        if self.is_committee:
            self.implemented_properties = [*self.implemented_properties, "energy_std", "forces_std"]
        self.lists = {
            (p.species, p.config.cutoff): VerletList(p.species, p.config.cutoff, skin)
            for p in self.potentials
        }
        self._gpu_lists: dict = {}
        self._last: Atoms | None = None
        self._stress_follows = False
        self._lock = new_lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=new_lock())

    @one_at_a_time
    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """What each `get_` of ASE comes down to: no other thread calculates until the result is read."""
        return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What has changed since the last call, to the last bit.

        ASE's own check takes as long as a small force call, and comparing bytes a part of comparing numbers.
        """
        old = self.atoms
        if old is None or _but_positions(old) != _but_positions(atoms):
            return list(all_changes)
        return [] if old.positions.tobytes() == atoms.positions.tobytes() else ["positions"]

    @one_at_a_time
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; no backward walk where only energies are asked for.

        PropertyNotImplementedError at stress without periodicity in all three directions.
        """
        pbc = (self.atoms if atoms is None else atoms).pbc
        if "stress" in properties and not pbc.all():
            raise PropertyNotImplementedError(
                f"stress: expected a structure periodic in all three directions, found pbc {pbc.tolist()}"
            )
        if atoms is not None:
            self._remember(atoms, system_changes)
        self.results = {}  # of other atoms, should a check fail

        # A cell filter asks for forces, then stress: from the second step on, one walk gives both.
        self._stress_follows |= "stress" in properties
        forces = not WITHOUT_FORCES.issuperset(properties)
        stress = forces and self._stress_follows and bool(pbc.all())
        here = self.atoms
        geometry = here.numbers, here.positions, here.cell.array, here.pbc
        batches, members = {}, []
        with on_threads(self.threads):
            for potential in self.potentials:
                neighbours = self._list(potential)
                if neighbours not in batches:
                    batches[neighbours] = neighbours.batch(*geometry)
                members.append(_results(potential, batches[neighbours], forces, stress))
        if self.is_committee:
            values = {name: np.array([member[name] for member in members]) for name in members[0]}
            results = {name: v.mean(axis=0) for name, v in values.items()}
            results |= {
                f"{name}_std": values[name].std(axis=0) for name in ("energy", "forces")[: 1 + forces]
            }
        else:
            results = members[0]
        results["free_energy"] = results["energy"]
        self.results = results

    @one_at_a_time
    def graph(self) -> Batch:
        """Of the atoms last calculated, as the first of the potentials sees them; on the CPU."""
        return moved(self._list(self.potentials[0]).latest, "cpu")

    def _remember(self, atoms: Atoms, system_changes: Sequence[str]) -> None:
        """Atoms to compare the next ones with; a copy of all that they carry takes as long as ten of them."""
        if self._last is None or list(system_changes) != ["positions"]:
            self._last = atoms.copy()
        self._last.positions[:] = atoms.positions
        self.atoms = self._last

    def _list(self, potential: Potential) -> VerletList:
        """The potential's neighbours, those of many atoms on its GPU."""
        key = potential.species, potential.config.cutoff
        if potential.backend != "cuda" or len(self.atoms) < SMALLEST:
            return self.lists[key]
        if key not in self._gpu_lists:
            from eqpot.structures.gpu_graph import GpuVerletList

            self._gpu_lists[key] = GpuVerletList(*key, self.skin)
        return self._gpu_lists[key]


def _but_positions(atoms: Atoms) -> tuple[bytes, ...]:
    return atoms.numbers.tobytes(), atoms.cell.array.tobytes(), atoms.pbc.tobytes()


def _held(model: str | Path | Potential, backend: str, stays: bool) -> Potential:
    """The model on the backend; `stays`: a Potential where it is."""
    if not isinstance(model, Potential):
        return Potential.load(model, backend)
    return model if stays else deepcopy(model).to(backend)


def _results(potential: Potential, batch: Batch, forces: bool, stress: bool) -> dict[str, float | np.ndarray]:
    """By ASE's names, in the order of its atoms."""
    prediction = potential.predict(batch, forces=forces, stress=stress)
    results = {"energy": float(prediction.energy[0]), "energies": prediction.energies.take(batch.place)}
    if forces:
        results["forces"] = prediction.forces.take(batch.place, axis=0)
    if stress:
        results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0])
    return results
