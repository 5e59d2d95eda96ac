"""Evaluation on a GPU with the fused convolution: radial weights of edges and messages in one kernel.

`kernels.convolution` multiplies the radial network's last layer into the products, so that the weights of
edges, the largest array of all, are never made. It needs dh/dr besides h, and has no tangents: nothing but
the positions can be differentiated, and that once.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from eqpot.engines import taped
from eqpot.engines.fitted import Fitted
from eqpot.engines.observables import Prediction
from eqpot.network.labels import Dense
from eqpot.network.model import Block, Model, Stages
from eqpot.network.ops import Operator, convolution
from eqpot.network.tape import Node, Tape
from eqpot.structures.graph import Batch


class FusedStages(Stages):
    """h is on no tape: the convolution goes back to r itself, by dh/dr, which `radial` makes."""

    def __init__(self, model: Model, p: Mapping[str, Node], batch: Batch, operator: Operator | None = None):
        super().__init__(model, p, batch)
        self._convolution = operator or convolution()

    def radial(self, tape: Tape, layers: Sequence[Dense], r: Node) -> Node:
        own, distance = Tape(tape.operators, tape.pool), Node(r.value)
        h = super().radial(own, layers, distance)
        own.tangent({distance: tape.pool.full(r.value.shape, 1)})
        own.forget(h)
        tape.pool.give(distance.t)
        self._r, self._slope, h.t = r, h.t, None
        return h

    def release(self, tape: Tape, h: Node) -> None:
        super().release(tape, h)
        tape.pool.give(self._slope)

    def messages(self, tape: Tape, b: Block, s: Node, v: Node, unit: Node, h: Node) -> tuple[Node, ...]:
        (first, rows, *_), scale = b.radial.pieces[0].tolist(), float(b.radial.scales[0])
        W, batch = self.p[b.radial.name].value.reshape(rows, -1), self.batch
        static = h.value, self._slope, W, batch.senders, batch.receiver_ptr, b.paths, first, scale
        return tape.call(self._convolution, (s, v, unit, self._r), self.message_shapes(b), *static)


walk = partial(taped.one_by_one, kind=FusedStages)


def takes(*_: object) -> bool:
    """Everything, on a GPU."""
    return True


def predict(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """Energies, and forces and stress where asked for."""
    return compute(f, batch, forces, stress).on("cpu")


def compute(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """The same in arrays on the GPU."""
    try:
        return taped.record(f, batch, forces, stress, walk, lean=True).prediction
    finally:
        f.pool.release()
