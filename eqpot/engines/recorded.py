"""Force calls of small structures on a GPU, each recorded once as a CUDA graph and launched as a whole.

A force call is some hundred kernels; from Python their launches take longer than they do. What a graph works
on lies in fixed places, so that it serves every batch of its shape: as many atoms of each species in as many
structures, and room for as many edges, in steps. Edges that are only room are longer than the cutoff, belong
to no atom and change nothing, not a bit.
"""

import math

import numpy as np

from eqpot.backend import array_module, send
from eqpot.engines.fitted import Fitted
from eqpot.engines.fused import compute
from eqpot.engines.observables import Prediction
from eqpot.kernels.cuda import RECORDED_ROWS, Recording
from eqpot.structures.graph import Batch

MOST = 16  # recordings that a potential keeps


def takes(f: Fitted, batch: Batch, forces: bool) -> bool:
    """Few atoms, lone ones counted: there is no cuBLAS in what is recorded."""
    atoms = len(batch.species) + len(batch.species_ptr) - 1
    return max(room_for(batch.edge_count), f.model.config.components * atoms) <= RECORDED_ROWS


def predict(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """Energies, and forces and stress where asked for."""
    return f.engine(RecordedCalls)(batch, forces, stress).on("cpu")


class RecordedCalls:
    """The recorded force calls of a potential; see the module."""

    def __init__(self, f: Fitted):
        self._fitted = f
        self.calls: dict[tuple, _Call] = {}

    def __call__(self, batch: Batch, forces: bool, stress: bool) -> Prediction:
        """What `fused.compute` returns, of a small batch; valid until the next call."""
        f, room = self._fitted, room_for(batch.edge_count)
        shape = batch.n_frames, len(batch.species), room, batch.species_ptr.tobytes(), forces, stress
        key = *shape, f.scale.tobytes(), f.shift.tobytes()
        call = self.calls.pop(key, None)
        if call is None:
            if len(self.calls) >= MOST:
                del self.calls[next(iter(self.calls))]  # the one that was used longest ago
            call = _Call(f, batch, room, forces, stress)
        self.calls[key] = call
        return call(batch)


class _Call:
    def __init__(self, f: Fitted, batch: Batch, room: int, forces: bool, stress: bool):
        self._places = Places(batch, room, 2 * f.model.config.cutoff)
        self._places.fill(batch)
        self._run = Recording(lambda: compute(f, self._places.batch, forces, stress), f.pool.arrays)

    def __call__(self, batch: Batch) -> Prediction:
        self._places.fill(batch)
        return self._run()


def room_for(edges: int) -> int:
    """Edges that a recording is made for where so many are needed: at most 64, or an eighth, more."""
    step = max(64, 1 << max(edges - 1, 0).bit_length() >> 4)
    return -(-edges // step) * step


class Places:
    """A Batch on the GPU whose arrays stay where they are; `fill` copies other batches of its shape there.

    room: edges it has room for; far: length of those that are not in use, Å, beyond the cutoff.
    """

    EDGES = ("edge_vec", "senders", "receivers", "sender_perm")
    ATOMS = ("frame", "species", "receiver_ptr", "sender_ptr", "atom_counts", "volume")

    def __init__(self, like: Batch, room: int, far: float):
        xp = array_module("cuda")
        shapes = {name: (room, *getattr(like, name).shape[1:]) for name in self.EDGES}
        shapes |= {name: getattr(like, name).shape for name in self.ATOMS}
        # All in one piece, of 8 bytes each: a batch of the host then is a single copy.
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()]).tolist()

        def cut(whole) -> dict:
            return {
                name: whole[end - math.prod(shape) : end].view(getattr(like, name).dtype).reshape(shape)
                for end, (name, shape) in zip(ends, shapes.items(), strict=True)
            }

        self._there, self._here = xp.zeros(ends[-1], np.int64), np.zeros(ends[-1], np.int64)
        self._device, self._host, self._far = cut(self._there), cut(self._here), far
        self.batch = Batch(order=like.order, species_ptr=like.species_ptr, backend="cuda", **self._device)

    def fill(self, batch: Batch) -> None:
        """Copy a batch of this shape there."""
        E, here = batch.edge_count, batch.backend == "cpu"
        to = self._host if here else self._device
        for name in self.EDGES:
            to[name][:E] = getattr(batch, name)
            to[name][E:] = 0
        to["edge_vec"][E:, 0] = self._far
        for name in self.ATOMS:
            to[name][...] = getattr(batch, name)
        if here:
            send(self._there, self._here)
