"""The potential as an ASE calculator: for dynamics, relaxations, vibrations and whatever else ASE drives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from eqpot.errors import UserError
from eqpot.graph import Batch, VerletList
from eqpot.model import Selection
from eqpot.potential import Potential
from eqpot.threads import most_threads, on_threads

WITHOUT_FORCES = {"energy", "free_energy", "energies", "energy_std"}


class EqpotCalculator(Calculator):
    """Energy, energies of the atoms (eV), forces (eV/Å) and stress (eV/Å^3) of one potential or several.

    model: path of a model file, a Potential, or a list of these, a committee. A committee gives the mean over
    its members and, in `results`, their standard deviations: energy_std (eV) and forces_std [n, 3] (eV/Å).
    The calculator keeps the weights as they are now.
    skin: how far beyond the cutoff neighbours are remembered, Å. A wider one is searched for less often and
    has more pairs to go through at every step; the results are the same to the last bit.
    paths_off: tensor-product paths that send nothing, in each of the models; see `Potential.without`.
    threads: at most so many share a call, which is as many as pay; None: all that Numba may use. They do not
    change a bit of the results.

    UserError at a file that is no model, a skin that is negative or not finite, more threads than there are,
    and what is no path of a model. When it calculates: at an element that a model has not learned, a position
    that is not finite, two atoms in the same place, and a periodic cell without volume.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
    nolabel = True

    def __init__(
        self,
        model: str | Path | Potential | Sequence[str | Path | Potential],
        skin: float = 0.5,
        threads: int | None = None,
        paths_off: Selection = frozenset(),
    ):
        super().__init__()
        self.is_committee = not isinstance(model, str | Path | Potential)
        models = list(model) if self.is_committee else [model]
        if not models:
            raise UserError("model: expected at least one, found an empty list")
        if not 0 <= skin < np.inf:
            raise UserError(f"skin: expected a length in Å that is not negative, found {skin}")
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= most_threads()):
            raise UserError(f"threads: expected 1 to {most_threads()}, found {threads!r}")
        self.threads = threads
        loaded = [m if isinstance(m, Potential) else Potential.load(m) for m in models]
        self.potentials = [m.without(paths_off).frozen() for m in loaded]
        if self.is_committee:
            self.implemented_properties = [*self.implemented_properties, "energy_std", "forces_std"]
        self.lists = {
            (p.species, p.config.cutoff): VerletList(p.species, p.config.cutoff, skin)
            for p in self.potentials
        }
        self._stress_follows = False

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What has changed since the last call. ASE's own check takes as long as a small force call."""
        old = self.atoms
        if old is None or any(
            not np.array_equal(a, b)
            for a, b in ((old.numbers, atoms.numbers), (old.cell[:], atoms.cell[:]), (old.pbc, atoms.pbc))
        ):
            return list(all_changes)
        return [] if np.array_equal(old.positions, atoms.positions) else ["positions"]

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
        super().calculate(atoms, properties, system_changes)
        self.results = {}  # of other atoms, should a check fail

        # A cell filter asks for forces, then stress: from the second step on, one walk gives both.
        self._stress_follows |= "stress" in properties
        forces = not WITHOUT_FORCES.issuperset(properties)
        stress = forces and self._stress_follows and bool(pbc.all())
        geometry = self.atoms.numbers, self.atoms.positions, self.atoms.cell[:], self.atoms.pbc
        batches = {key: neighbours.batch(*geometry) for key, neighbours in self.lists.items()}
        with on_threads(self.threads):
            members = [
                _results(p, batches[p.species, p.config.cutoff], forces, stress) for p in self.potentials
            ]
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


def _results(potential: Potential, batch: Batch, forces: bool, stress: bool) -> dict[str, float | np.ndarray]:
    """By ASE's names, in the order of its atoms."""
    prediction = potential.predict(batch, forces=forces, stress=stress)
    results = {"energy": float(prediction.energy[0]), "energies": np.empty_like(prediction.energies)}
    results["energies"][batch.order] = prediction.energies
    if forces:
        results["forces"] = np.empty_like(prediction.forces)
        results["forces"][batch.order] = prediction.forces
    if stress:
        results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0])
    return results
