"""Training steps on a GPU: frames and labels stay there, and a step is one CUDA graph wherever it can be.

For each step the host sends which frames it takes and a few numbers of Adam; what comes back is the loss, its
terms, and whether all is finite. SOAP's step follows the graph, since cuBLAS and cuSOLVER cannot be recorded.
"""

from collections.abc import Callable, Sequence

import numpy as np

from eqpot.backend import array_module, free_memory, send, to_device
from eqpot.engines.recorded import MOST, room_for
from eqpot.kernels import collate as kernels
from eqpot.kernels.cuda import RECORDED_ROWS, Recording
from eqpot.structures.frames import Frames, Labels
from eqpot.structures.graph import Batch, collate
from eqpot.training.adam import Adam, MovingAverage, largest_gradient
from eqpot.training.soap import Soap


class GpuFrames:
    """The frames of a data set on the GPU, and batches made of them there.

    atom_weights: of the atoms' force errors, by row of the data set; frame_weights: of the frames' other
    errors, None where all are 1.
    """

    def __init__(self, frames: Frames, atom_weights: np.ndarray, frame_weights: np.ndarray | None = None):
        data, Z = frames.dataset, frames.n_species
        alone = [collate([graph], Z) for graph in frames.graphs]
        self.counts = np.array([np.diff(b.species_ptr) for b in alone]).reshape(-1, Z)
        self.sizes, self.edges = data.sizes, frames.edges
        atoms, edges = data.atom_ptr, np.concatenate([[0], np.cumsum(self.edges)])
        ranks = [np.arange(len(b.species)) - b.species_ptr[b.species] for b in alone]

        def joined(arrays: Sequence[np.ndarray], starts: np.ndarray | None = None):
            shifted = arrays if starts is None else [a + s for a, s in zip(arrays, starts, strict=False)]
            return to_device(np.concatenate(shifted), "cuda")

        self._frame_ptr = to_device(atoms, "cuda")
        self._atoms = joined([b.species for b in alone]), joined(ranks)
        self._ptr = joined([*(b.receiver_ptr[:-1] for b in alone), np.zeros(1, np.int64)], edges)
        self._edges = (
            joined([b.edge_vec for b in alone]),
            joined([b.senders for b in alone], atoms),
            joined([b.receivers for b in alone], atoms),
            joined([b.sender_perm for b in alone], edges),
        )
        rows = np.concatenate([b.order + start for b, start in zip(alone, atoms, strict=False)])
        self._volume = to_device(np.array([graph.volume for graph in frames.graphs]), "cuda")
        self._sizes = to_device(self.sizes, "cuda")
        self._labels = Labels(data.energy, None if data.forces is None else data.forces[rows], data.stress)
        self._labels = self._labels.on("cuda")
        self._weights = to_device(atom_weights[rows], "cuda")
        self._frame_weights = None if frame_weights is None else to_device(frame_weights, "cuda")

    @staticmethod
    def fits(frames: Frames) -> bool:
        """Whether it takes at most half of the GPU's memory that is free, but for some bytes a frame."""
        return 2 * (48 * int(frames.edges.sum()) + 8 * 8 * len(frames.dataset.numbers)) <= free_memory()

    def plan(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the GPU has to know of the chosen frames, one array of int64, and species_ptr of the batch."""
        counts = self.counts[chosen]
        species_ptr = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
        offsets = species_ptr[:-1] + np.cumsum(counts, axis=0) - counts
        starts = np.concatenate([[0], np.cumsum(self.sizes[chosen])])
        return np.concatenate([chosen, starts, offsets.ravel()]), species_ptr

    def batch(self, plan, frames: int, species_ptr: np.ndarray, room: int, far: float):
        """The batch, its labels, its atoms' and its frames' weights, by a plan that is on the GPU.

        frames: how many; room: edges at least as many as there are; far: length of those that are not, Å.
        """
        xp, n = array_module("cuda"), int(species_ptr[-1])
        chosen, starts = plan[:frames], plan[frames : 2 * frames + 1]
        offsets = plan[2 * frames + 1 :].reshape(frames, -1)
        source, frame, species, ptr = (xp.empty(k, np.int64) for k in (n, n, n, n + 1))
        edge_vec = xp.empty((room, 3))
        senders, receivers, perm = (xp.empty(room, np.int64) for _ in range(3))
        kernels.atoms_cuda(source, frame, species, chosen, starts, offsets, self._frame_ptr, *self._atoms)
        kernels.ptr_cuda(ptr, source, self._ptr)
        places = edge_vec, senders, receivers, perm, ptr, source, frame
        kernels.edges_cuda(*places, far, offsets, *self._atoms, self._ptr, *self._edges)
        batch = Batch(
            order=np.empty(0, np.int64),
            frame=frame,
            species=species,
            species_ptr=species_ptr,
            atom_counts=self._sizes[chosen],
            volume=self._volume[chosen],
            edge_vec=edge_vec,
            senders=senders,
            receivers=receivers,
            receiver_ptr=ptr,
            sender_perm=perm,
            sender_ptr=ptr,
            backend="cuda",
        )
        known = self._labels
        labels = Labels(
            energy=None if known.energy is None else known.energy[chosen],
            forces=None if known.forces is None else known.forces[source],
            stress=None if known.stress is None else known.stress[chosen],
        )
        of_frames = None if self._frame_weights is None else self._frame_weights[chosen]
        return batch, labels, self._weights[source], of_frames


class GpuSteps:
    """The training steps of frames on the GPU, of arrays there.

    gradient: of a batch, its labels, its atoms' and its frames' weights: loss, its terms, gradient by the
    weights; memory: the arrays that it works in; components: rows that an atom has in the tallest product of
    matrices, 3 of vectors, 5 or 7 of moments; frame_weights: as in `GpuFrames`.
    """

    def __init__(
        self,
        frames: Frames,
        atom_weights: np.ndarray,
        optimizer: Adam | Soap,
        average: MovingAverage,
        weights: np.ndarray,
        gradient: Callable[[Batch, Labels, np.ndarray, np.ndarray | None], tuple],
        memory: Callable[[], list[np.ndarray]],
        components: int = 3,
        frame_weights: np.ndarray | None = None,
    ):
        self._frames, self._far = GpuFrames(frames, atom_weights, frame_weights), 2 * frames.cutoff
        self._optimizer, self._average, self._weights = optimizer, average, weights
        self._gradient, self._memory, self._components = gradient, memory, components
        self._most = np.sort(frames.edges)[::-1].cumsum()  # edges of so many frames, at most
        self._recorded: dict[tuple, tuple] = {}

    def step(
        self, chosen: np.ndarray, rate: Callable[[], float]
    ) -> tuple[float, dict[str, float], np.ndarray, bool]:
        """One step: the loss, its terms, its gradient, whether loss and gradient are finite."""
        optimizer, recorded = self._optimizer, isinstance(self._optimizer, Adam)
        plan, species_ptr = self._frames.plan(chosen)
        constants = (optimizer.advance(rate()), self._average.advance()) if recorded else ()
        room = room_for(int(self._most[len(chosen) - 1]))
        atoms = species_ptr[-1] + len(species_ptr) - 1  # perhaps with lone ones
        if max(room, self._components * atoms) > RECORDED_ROWS:
            there = [to_device(x, "cuda") for x in (plan, *constants)]
            outcome, gradient = self._compute(
                there, species_ptr, len(chosen), int(self._frames.edges[chosen].sum())
            )()
        else:
            key = len(chosen), species_ptr.tobytes()
            if key not in self._recorded:
                if len(self._recorded) >= MOST:
                    del self._recorded[next(iter(self._recorded))]
                there = [to_device(x, "cuda") for x in (plan, *constants)]
                moments = [x for name, x in optimizer.state().items() if name != "steps"]
                changed = [self._weights, self._average.weights, *moments]
                held = [x.copy() for x in changed]
                run = Recording(self._compute(there, species_ptr, len(chosen), room), self._memory)
                for x, before in zip(changed, held, strict=True):
                    x[...] = before  # recording has made the step, too
                self._recorded[key] = there, run
            there, run = self._recorded[key]
            for to, x in zip(there, (plan, *constants), strict=True):
                send(to, x)
            outcome, gradient = run()
        value, finite, *parts = outcome.tolist()
        if finite and not recorded:
            optimizer.step(self._weights, gradient, rate())
            self._average.update(self._weights)
        return value, dict(zip(("energy", "forces", "stress"), parts, strict=True)), gradient, finite == 1

    def _compute(self, there: list, species_ptr: np.ndarray, frames: int, room: int) -> Callable:
        """What is done on the GPU; gives [loss, 1 if finite, energy, forces, stress] and the gradient.

        there: the plan, and the numbers of Adam and of the moving average where these are part of it.
        """
        xp = array_module("cuda")
        plan, *constants = there

        def compute():
            value, parts, gradient = self._gradient(
                *self._frames.batch(plan, frames, species_ptr, room, self._far)
            )
            small = xp.abs(gradient) < largest_gradient(gradient.dtype)
            finite = (small.all() & xp.isfinite(value)).astype(np.float64)
            if constants:
                self._optimizer.apply(self._weights, gradient, constants[0])
                self._average.apply(self._weights, constants[1])
            # A plain float among the terms is the NaN of labels that there are not.
            terms = (value * part if type(part) is float else part for part in parts.values())
            return xp.stack([value, finite, *terms]), gradient

        return compute
