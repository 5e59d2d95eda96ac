"""The interaction blocks and the readout as one operator on the tape: layout of the weights, and memory.

See `eqpot.kernels.blocks` for the walks.
"""

from collections.abc import Callable, Mapping

import numpy as np

from eqpot.engines import taped
from eqpot.engines.fitted import Fitted
from eqpot.engines.layout import graph_of, in_place, message_rows, of_order_2, product_rows
from eqpot.engines.observables import Prediction
from eqpot.kernels.blocks import TD, D, Memory, Second, T, Third, V, blocks_walk_cpu
from eqpot.kernels.compile import announce
from eqpot.kernels.simd import lanes, whole
from eqpot.kernels.walks import Graph
from eqpot.network.model import ALL, Model, Stages
from eqpot.network.ops import Operator
from eqpot.network.tape import Node, Tape
from eqpot.structures.graph import Batch

ATOMS_PER_PART = 12
PARTS = 32  # at most
EDGES_PER_ATOM = 12  # an atom's matrices take the time of about so many edges


def takes(f: Fitted) -> bool:
    """The compiled walks know one nonlinearity."""
    return f.backend == "cpu" and f.model.config.nonlinearity == "gate"


def gradient(
    f: Fitted, batch: Batch, loss: Callable[[Prediction], tuple], stress: bool
) -> tuple[tuple, np.ndarray]:
    """What `Potential.loss_gradient` returns: `taped`, with all blocks as one operator."""
    arrays = {name: f.params[name] for name in f.model.outside_blocks()} | {ALL: f.params.flat[None]}
    return taped.gradient(f, batch, loss, stress, f.engine(Blocks).network, arrays)


class Blocks:
    """energies[n, 1] from unit[E, 3], h[E, .] and the flat weights[1, S], for `Tape.call`.

    The weights must not move: their tangent is None. Tangents must be those of positions, the same for an
    edge and its reverse but for the sign of `unit`'s. Each tape takes its own memory from the pool; an
    instance serves one tape at a time.
    """

    def __init__(self, f: Fitted):
        self.model, self.pool, self.dtype = f.model, f.pool, f.dtype
        self.lanes = lanes(f.dtype)
        self.channels = whole(f.model.config.features, self.lanes)
        self.layout, self.flat, self._turned = in_place(f.model, f.params.starts, f.dtype)
        self.memory: Memory | None = None
        self.second: Second | None = None
        self.third: Third | None = None
        self.graph: Graph | None = None
        self.operator = Operator("blocks", self.fwd, self.bwd, self.fwd_tan, self.bwd_tan)
        announce(blocks_walk_cpu)
        self._no_gradient = np.empty((1, 0), f.dtype)

    def network(
        self, model: Model, tape: Tape, p: Mapping[str, Node], batch: Batch, edge_vec: Node, seed
    ) -> Node:
        """See `taped`; p has the arrays outside of the blocks, and ALL of them in a row."""
        stages = Stages(model, p, batch)
        r, unit = stages.geometry(tape, edge_vec)
        h = stages.radial(tape, model.radial, r)
        (x,) = tape.call(self.operator, (unit, h, p[ALL]), ((len(batch.species), 1),), batch)
        if seed is not None:
            tape.reverse({x: seed}, [edge_vec])
        return x

    def fwd(self, energies, unit, h, weights, batch: Batch) -> None:
        self.memory, self.graph = self._memory(batch), graph_in_parts(batch)
        if not self.model.config.of_papers:
            self.second = self._second(batch)
        if self.model.config.filter_order == 3:
            self.third = self._third(batch)
        self._walk(V, energies, unit, h, weights)

    def bwd(self, dunit, dh, dweights, denergies, unit, h, weights, batch: Batch) -> None:
        if dweights is not None:
            raise NotImplementedError("the weights' gradient comes with its tangent, from bwd_tan")
        self._walk(D, denergies, dunit, dh, weights)

    def fwd_tan(self, tenergies, tunit, th, tweights, unit, h, weights, batch: Batch) -> None:
        if tweights is not None:
            raise NotImplementedError("the weights of the blocks cannot move")
        self._walk(T, tenergies, tunit, th, weights)

    def bwd_tan(self, tdunit, tdh, tdweights, tdenergies, *rest) -> None:
        tunit, th, tweights, denergies, unit, h, weights, batch = rest
        if tdunit is not None:
            raise NotImplementedError("the blocks have no second derivative by the directions")
        if tdweights is None:
            raise NotImplementedError("the blocks' fourth walk is for the gradient of the weights")
        self._walk(TD, tdenergies, unit, tdh, weights, tdweights)

    def _walk(self, slot: int, energies, unit, h, weights, gradient=None) -> None:
        gradient = self._no_gradient if gradient is None else gradient
        rest = (self.layout, self.flat, self.graph, self.memory, self.second, self.third)
        blocks_walk_cpu(slot, energies, unit, h, gradient[0], weights[0], *rest)

    def _memory(self, batch: Batch) -> Memory:
        n, E, K, C = len(batch.species), batch.edge_count, self.model.config.blocks, self.channels
        H = int(np.diff(self.flat.radial_columns).max())
        R = whole(self.flat.features // 2, self.lanes)
        parts, packed = n_parts(n), (K, C // self.lanes, H, 5 * self.lanes)
        take = self.pool.take
        return Memory(
            h=take((K, E, 2, H)),
            dh=take((K, E, 2, H)),
            unit=take((2, E, 3)),
            x=take((4, K + 1, n, 4, C)),
            u=take((4, K, n, 4, C)),
            m=take((4, K, n, message_rows(self.model), C)),
            p=take((4, K, n, 5, C)),
            y=take((4, n, 1, R)),
            energies=take((4, n)),
            W=take(packed),
            tdW=take((parts, *packed)),
            turned=take((self._turned,)),
            held=take((parts, 4 + H, C)),
        )

    def _second(self, batch: Batch) -> Second:
        """Memory of filters of order 2 and of products on atoms."""
        config, memory, take = self.model.config, self.memory, self.pool.take
        n, K, D = len(batch.species), config.blocks, whole(self.model.product_width, self.lanes)
        packed = (*memory.W.shape[:3], 2 * self.lanes)
        factors, products = product_rows(self.model, D)
        return Second(
            filters=of_order_2(self.model),
            products=config.node_products,
            vectors=2 * D * (config.l_max == 1),
            tensors=2 * D * (config.filter_order >= 2),
            thirds=2 * D * (config.filter_order == 3),
            W=take(packed),
            tdW=take((len(memory.tdW), *packed)),
            a=take((4, K, n, *factors)),
            b=take((4, K, n, *products)),
        )

    def _third(self, batch: Batch) -> Third:
        """Memory of filters of order 3."""
        memory, take = self.memory, self.pool.take
        packed = (*memory.W.shape[:3], self.lanes)
        return Third(o=take((2, batch.edge_count, 7)), W=take(packed), tdW=take((len(memory.tdW), *packed)))


def n_parts(n: int) -> int:
    """How many parts the atoms of a batch are cut into; threads share them."""
    return max(1, min(PARTS, n // ATOMS_PER_PART))


def graph_in_parts(batch: Batch) -> Graph:
    """The batch as the kernels take it, its atoms in parts of about as much work."""
    n, parts = len(batch.species), n_parts(len(batch.species))
    work = batch.receiver_ptr + EDGES_PER_ATOM * np.arange(n + 1)
    cuts = np.searchsorted(work, [work[-1] * t // parts for t in range(1, parts)])
    return graph_of(batch, np.array([0, *cuts, n]))
