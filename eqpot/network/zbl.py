"""The ZBL term of a potential: constants of its pairs of species for `eqpot.kernels.zbl`."""

from collections.abc import Sequence

import numpy as np
from ase import units
from ase.data import covalent_radii

from eqpot.backend import array_module
from eqpot.kernels.cuda import constant
from eqpot.kernels.zbl import zbl_cpu, zbl_cuda
from eqpot.structures.graph import Batch


class ZBL:
    """Screened repulsion of nuclei, which ends at the sum of two covalent radii, or at the cutoff if shorter.

    species: atomic numbers, rising; cutoff in Å; envelope_p: exponent of the envelope.
    """

    def __init__(self, species: Sequence[int], cutoff: float, envelope_p: int):
        z, radii = np.array(species, np.float64), covalent_radii[list(species)]
        self._charges = units.Hartree * units.Bohr * np.multiply.outer(z, z)
        self._lengths = 0.8854 * units.Bohr / np.add.outer(z**0.23, z**0.23)
        self._ends = np.minimum(np.add.outer(radii, radii), cutoff)
        self._envelope_p = envelope_p

    def repulsion(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies of atoms [n] (eV), forces [n, 3] and dE/d edge_vec [E, 3] (eV/Å), in the batch's order."""
        n, xp = len(batch.species), array_module(batch.backend)
        found = xp.empty(n), xp.empty((n, 3)), xp.empty((batch.edge_count, 3))
        graph = batch.edge_vec, batch.senders, batch.receiver_ptr, batch.species
        constants = self._charges, self._lengths, self._ends
        if batch.backend == "cuda":
            zbl_cuda(*found, *graph, *map(constant, constants), self._envelope_p)
        else:
            zbl_cpu(*found, *graph, *constants, self._envelope_p)
        return found
