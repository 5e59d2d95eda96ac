"""The frames of a data set as graphs, and their labels, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Self

import numpy as np

from eqpot.backend import to_device, to_host
from eqpot.structures.data import Dataset
from eqpot.structures.graph import Batch, FrameGraph, collate, frame_graph


@dataclass
class Labels:
    """Energies [f] (eV), forces [n, 3] (eV/Å), stress [f, 3, 3] (eV/Å^3): labels or predictions.

    None where a whole array is absent, NaN where a single number is.
    """

    energy: np.ndarray | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None

    def on(self, backend: str) -> Self:
        """The same where the backend works."""
        move = to_host if backend == "cpu" else partial(to_device, backend=backend)
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{name: None if a is None else move(a) for name, a in arrays.items()})


class Frames:
    """A data set with its neighbour lists, which are made once, cut into batches as needed.

    UserError at an element that is not among `species` (atomic numbers).
    """

    def __init__(self, dataset: Dataset, species: Sequence[int], cutoff: float):
        self.dataset = dataset
        self.cutoff = cutoff
        self.n_species = len(species)
        self.graphs = _graphs(dataset, species, cutoff)
        self._flat = np.zeros(0, int)  # frames whose stress means nothing
        if dataset.stress is not None:
            flat = np.isnan([graph.volume for graph in self.graphs])
            self._flat = np.flatnonzero(flat & dataset.known("stress"))
            stress = np.where(flat[:, None, None], np.nan, dataset.stress)
            self.dataset = replace(dataset, stress=stress)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def edges(self) -> np.ndarray:
        """Edges of each frame, int64 [frames]."""
        return np.array([len(g.senders) for g in self.graphs])

    @property
    def has_stress(self) -> bool:
        """Whether any frame has a stress label."""
        return bool(self.dataset.known("stress").any())

    def batch(self, frames: Sequence[int]) -> tuple[Batch, np.ndarray]:
        """The frames as one Batch, and their atoms' rows in the data set, in the batch's order."""
        batch = collate([self.graphs[k] for k in frames], self.n_species)
        ptr = self.dataset.atom_ptr
        return batch, np.concatenate([np.arange(ptr[k], ptr[k + 1]) for k in frames])[batch.order]

    def labels(self, frames: Sequence[int], rows: np.ndarray) -> Labels:
        """Labels of `frames`, whose atoms are the data set's `rows`."""
        d = self.dataset
        return Labels(
            energy=None if d.energy is None else d.energy[frames],
            forces=None if d.forces is None else d.forces[rows],
            stress=None if d.stress is None else d.stress[frames],
        )

    def warning(self) -> str | None:
        """A line about frames in which no atom has a neighbour, and stress without a volume, if any."""
        bare, lines = np.flatnonzero(self.edges == 0), []
        if len(bare):
            lines.append(
                f"{len(bare)} of {len(self)} frames have no two atoms within the cutoff of {self.cutoff:g} Å "
                f"(first: frame {bare[0]}); their forces are predicted as zero"
            )
        if len(self._flat):
            lines.append(
                f"the stress of {len(self._flat)} of {len(self)} frames is not used (first: frame "
                f"{self._flat[0]}), which are not periodic in three directions"
            )
        return f"{self.dataset.path or 'data'}: {'; '.join(lines)}" if lines else None


def _graphs(dataset: Dataset, species: Sequence[int], cutoff: float) -> list[FrameGraph]:
    """Graphs of all frames of a data set."""
    ptr, path = dataset.atom_ptr, dataset.path or "data"
    return [
        frame_graph(
            dataset.numbers[ptr[k] : ptr[k + 1]],
            dataset.positions[ptr[k] : ptr[k + 1]],
            dataset.cell[k],
            dataset.pbc[k],
            species,
            cutoff,
            f"{path}: frame {k}",
        )
        for k in range(len(dataset))
    ]
