"""What `pair_eqpot.cpp` calls, on each rank: models, atom types, and the walk through the network.

Errors are told by `told`, in a line, and end LAMMPS.
"""

import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from eqpot.errors import UserError
from eqpot.files import named_twice
from eqpot.words import plain

ALIKE = 0.02  # of a mass: what scripts round it by; isotopes are told by more


def told(error: BaseException) -> str:
    """An error as LAMMPS shows it."""
    if isinstance(error, UserError):
        return plain(f"pair_style eqpot: {error}")
    if isinstance(error, MemoryError):
        return "pair_style eqpot: out of memory: expected fewer atoms on each rank"
    return plain(f"pair_style eqpot: internal error ({type(error).__name__}: {error}); please report it")


class Pair:
    """The models of one `pair_style eqpot MODEL.h5 ... [threads N]`: two or more are a committee.

    members: their number; n_species: of their elements; cutoff in Å.
    """

    def __init__(self, words: Sequence[str]):
        paths, self.threads = _arguments(words)
        if "numba" not in sys.modules:  # else it would start a thread for each core
            os.environ.setdefault("NUMBA_NUM_THREADS", str(self.threads))
        from eqpot.engines import force_call
        from eqpot.potential import Potential
        from eqpot.threads import most_threads

        if self.threads > most_threads():
            raise UserError(f"threads: expected 1 to {most_threads()} on each rank, found {self.threads}")
        potentials = [Potential.load(path).frozen() for path in paths]
        first = potentials[0]
        for path, p in zip(paths, potentials, strict=True):
            if not force_call.takes(p.fitted):
                raise UserError(f"{path}: nonlinearity: expected gate, found {p.config.nonlinearity}")
            if (p.species, p.config.cutoff) != (first.species, first.config.cutoff):
                raise UserError(
                    f"{path}: expected elements and cutoff of the first model, {_elements(first)}, "
                    f"{first.config.cutoff:g} Å, found {_elements(p)}, {p.config.cutoff:g} Å"
                )
        self._fitted = [p.fitted for p in potentials]
        self._same = named_twice(paths)
        self.species, self.cutoff = first.species, first.config.cutoff
        self.members, self.n_species = len(potentials), len(first.species)

    def prepare(self) -> None:
        """Compile what is not yet, and make room."""
        from eqpot.engines.by_ranks import Share, steps
        from eqpot.threads import on_threads

        with on_threads(self.threads):
            none, ptr = np.empty(0, np.int64), np.zeros(self.n_species + 1, np.int64)
            for fitted in self._fitted:
                for _ in steps(fitted, Share(none, ptr, none, np.zeros(1, np.int64), np.empty((0, 3)))):
                    pass

    def species_of(self, names: Sequence[str]) -> list[int]:
        """Of each atom type, by its element or NULL: the place among the models' species, or -1."""
        symbols = [chemical_symbols[z] for z in self.species]
        for name in names:
            if name != "NULL" and name not in symbols:
                raise UserError(
                    f"pair_coeff: expected elements trained on ({' '.join(symbols)}) or NULL, found {name}"
                )
        return [-1 if name == "NULL" else symbols.index(name) for name in names]

    def doubts(self, masses: Sequence[float], types: Sequence[int]) -> list[str]:
        """Lines about what may not be meant: a model twice, a type whose mass is that of another element.

        masses: of the atom types, g/mol; types: what `species_of` returned.
        """
        own = atomic_masses[list(self.species)]
        lines = list(self._same)
        for k, (mass, species) in enumerate(zip(masses, types, strict=True)):
            if species < 0 or abs(mass - own[species]) <= ALIKE * mass:
                continue
            like = int(np.argmin(abs(own - mass)))
            if abs(mass - own[like]) <= ALIKE * mass:
                said, meant = (chemical_symbols[self.species[place]] for place in (species, like))
                lines.append(f"pair_coeff: type {k + 1} is {said}, and has the mass {mass:g} of {meant}")
        return [plain(line) for line in lines]

    def steps(
        self,
        species: memoryview,
        species_ptr: memoryview,
        senders: memoryview,
        receiver_ptr: memoryview,
        edge_vec: memoryview,
        energies: memoryview,
        slopes: memoryview,
    ) -> Iterator[tuple[int, int, int]]:
        """Fill energies [members, n] (eV) and slopes [members, E, 3], dE/d edge_vec (eV/Å), of a `Share`.

        Yields address, step in bytes from row to row, and bytes of each row, of what owners must copy to
        ghosts before it goes on.
        """
        from eqpot.engines.by_ranks import Share, steps
        from eqpot.threads import on_threads

        index = [np.frombuffer(a, np.int64) for a in (species, species_ptr, senders, receiver_ptr)]
        share = Share(*index, np.frombuffer(edge_vec).reshape(-1, 3))
        all_energies = np.frombuffer(energies).reshape(self.members, -1)
        all_slopes = np.frombuffer(slopes).reshape(self.members, -1, 3)
        for k, fitted in enumerate(self._fitted):
            with on_threads(self.threads):
                walk = steps(fitted, share)
                while True:
                    try:
                        rows = next(walk)
                    except StopIteration as end:
                        all_energies[k], all_slopes[k] = end.value
                        break
                    yield rows.ctypes.data, rows.strides[0], rows.shape[1] * rows.itemsize


def _elements(potential) -> str:
    return " ".join(chemical_symbols[z] for z in potential.species)


def _arguments(words: Sequence[str]) -> tuple[list[str], int]:
    """Paths of models, and threads, from MODEL.h5 ... [threads N]."""
    paths, threads = list(words), "1"
    if len(words) >= 2 and words[-2] == "threads":
        paths, threads = paths[:-2], words[-1]
    if not paths or "threads" in paths:
        raise UserError(
            f"expected pair_style eqpot MODEL.h5 ... [threads N], found {' '.join(words) or 'nothing'}"
        )
    if not (threads.isdecimal() and int(threads) > 0):
        raise UserError(f"threads: expected a number from 1 on, found {threads}")
    return paths, int(threads)
