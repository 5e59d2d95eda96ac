"""Limits that end a run before it goes on from nonsense."""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from eqpot.config import DynamicsConfig
from eqpot.errors import UserError
from eqpot.kernels.edges import shortest_edges
from eqpot.potential import Potential
from eqpot.structures.graph import Batch, FrameGraph

SHORTER = "; perhaps a shorter --timestep does better"
COMPRESSED = 0.5  # closest approach without training data, in sums of covalent radii
FEW, MANY = 1 / 3, 3.0  # neighbours of an atom, in those of training; a surface has half of a crystal's
APART = 1.7  # closest approach in those of training; molecules at rest have up to 1.4, in Bohr 1.9 and more


class Limits:
    """Those of the settings, for atoms with a calculator of these potentials."""

    def __init__(self, config: DynamicsConfig, potentials: Sequence[Potential]):
        if config.max_deviation and len(potentials) == 1:
            raise UserError("--max-deviation: expected more than one model, found one")
        self.config, self.species = config, potentials[0].species
        self.closest = closest_approach(potentials, self.species, config.min_distance)

    def fault(self, atoms: Atoms, kelvin: float, step: int) -> str:
        """What is wrong with a step, as "expected ..., found ...", and what may help; empty where nothing is.

        Takes what the calculator has: each of ASE's questions to it would first compare all positions.
        """
        config, results, advice = self.config, atoms.calc.results, SHORTER if step else ""
        forces, largest = results["forces"], _longest(results["forces"])
        if not math.isfinite(results["energy"] + kelvin + largest):
            return f"expected finite energy, forces and velocities, found NaN or infinity{advice}"
        if largest > config.max_force:
            k = int(np.argmax(np.linalg.norm(forces, axis=1)))
            return (
                f"expected no force above {config.max_force:g} eV/Å, found {largest:.4g} on atom {k} "
                f"({chemical_symbols[atoms.numbers[k]]}) (--max-force){advice}"
            )
        if config.min_distance:
            too_close = closer_than(self.closest, atoms.calc.graph(), self.species)
            if too_close:
                return f"{too_close} (--min-distance){advice}"
        band, target = config.temperature_band, config.target(step)
        if band and not target / band <= kelvin <= target * band:
            return (
                f"expected {target / band:.4g} to {target * band:.4g} K, found {kelvin:.4g} K "
                "(--temperature-band)"
            )
        if config.max_deviation and (found := deviation(atoms)) > config.max_deviation:
            return (
                f"expected the models' forces to deviate by at most {config.max_deviation:g} eV/Å, "
                f"found {found:.4g} (--max-deviation); frames like these, computed from first principles, "
                "would teach them more"
            )
        return ""


def deviation(atoms: Atoms) -> float | None:
    """Standard deviation of a committee's force, on the atom where it is largest, eV/Å; else None."""
    return _longest(atoms.calc.results["forces_std"]) if atoms.calc.is_committee else None


def closest(potential: Potential) -> dict[str, float]:
    """Å, by pair of elements ("H-O", atomic numbers rising): the closest in training; empty where untold."""
    return potential.provenance.get("closest", {})


def closest_approach(potentials: Sequence[Potential], species: Sequence[int], fraction: float) -> np.ndarray:
    """Å, [Z, Z]: `fraction` of the closest in training, the largest among the models.

    COMPRESSED of the sum of covalent radii for elements that no model tells of.
    """
    limits = np.empty((len(species), len(species)))
    for a, first in enumerate(species):
        for b, second in enumerate(species):
            pair = "-".join(chemical_symbols[z] for z in sorted((first, second)))
            told = [closest(p)[pair] for p in potentials if pair in closest(p)]
            bond = covalent_radii[first] + covalent_radii[second]
            limits[a, b] = fraction * max(told) if told else COMPRESSED * bond
    return limits


def closer_than(limits: np.ndarray, graph: FrameGraph | Batch, species: Sequence[int]) -> str:
    """The pair furthest below `limits` (Å, [Z, Z]) as "expected ..., found ..."; empty where none is."""
    found = shortest_edges(graph.edge_vec, graph.senders, graph.receivers, graph.species, len(species))
    if not (found < limits).any():
        return ""
    a, b = np.unravel_index(np.argmin(found / limits), found.shape)
    pair = " and ".join(chemical_symbols[species[k]] for k in (a, b))
    return f"expected {pair} at least {limits[a, b]:.3f} Å apart, found {found[a, b]:.3f} Å"


def unlike(potential: Potential, graph: FrameGraph, periodic: bool) -> str:
    """What makes a structure look as if its lengths were in another unit than Å; empty where nothing does.

    Far fewer or more neighbours than in training, or no two atoms as close as there. An atom of a molecule
    cannot have more neighbours than there are other atoms, whatever it had in training.
    """
    n, cutoff, usual = len(graph.species), potential.config.cutoff, potential.mean_neighbours
    mean, expected = len(graph.senders) / max(n, 1), usual if periodic else min(usual, n - 1)
    if expected < 1:
        return ""
    if not FEW * expected <= mean <= MANY * usual:
        return f"atoms have {mean:.3g} neighbours within {cutoff:g} Å, in training {usual:.3g}"
    species, known = potential.species, closest(potential)
    found = shortest_edges(graph.edge_vec, graph.senders, graph.receivers, graph.species, len(species))
    pairs = {
        "-".join(chemical_symbols[species[k]] for k in pair): found[pair]
        for pair in combinations_with_replacement(np.unique(graph.species).tolist(), 2)
    }
    ratios = {pair: r / known[pair] for pair, r in pairs.items() if pair in known}
    pair = min(ratios, key=ratios.get, default="")
    if not pair or not APART < ratios[pair] < math.inf:
        return ""
    return f"no two atoms are as close as in training: {pair} {pairs[pair]:.3g} Å, there {known[pair]:.3g} Å"


def doubted(potential: Potential, atoms: Atoms, name: str) -> str:
    """A line about a structure whose lengths look like another unit's; empty where they do not."""
    line = unlike(potential, potential.graph(atoms), bool(atoms.pbc.any()))
    return f"{name}: {line}: are its lengths in Å?" if line else ""


def _longest(vectors: np.ndarray) -> float:
    """Norm of the longest row."""
    return math.sqrt(np.einsum("ij,ij->i", vectors, vectors).max())
