"""The network, from edge vectors to one number per atom: which operators run, in what order, on which
channels.

Batzner et al., "E(3)-equivariant graph neural networks" (Nature Communications 13, 2453, 2022) at l <= 1.
Features of an atom are scalars s[n, C] and vectors v[n, 3, C].

Parity. Under O(3) a channel is even ("e") or odd ("o"), by what a point inversion does to it. Features of
natural parity are even scalars and odd, that is polar, vectors; with both parities these are the first half,
and odd scalars and even, that is axial, vectors the second. Y1 is odd, so a path with Y1 flips the label of
the channel that it carries: messages have both. The kernels know nothing of it: matrices connect equal labels
only. Under SO(3) all channels have one label and every matrix is full.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from eqpot.config import ModelConfig
from eqpot.errors import UserError
from eqpot.kernels.activation import SILU, SSP
from eqpot.network.labels import Dense, dense, factors, flip, times
from eqpot.network.params import Params
from eqpot.network.tape import Node, Tape
from eqpot.structures.graph import Batch

# Weights start as standard normals; static factors keep features near unit variance through the network.
ACTIVATION_GAIN = 1.68  # 1 / sqrt(<silu(x)^2>) of a standard normal x
RADIAL_GAIN = 2.0  # the basis and ssp are about half as large
# Messages and self-connection are two terms. Without this, vectors, which are gated by products of vectors,
# grow without limit: forces of 1e5 eV/Å from an untrained model of six blocks.
SUM_GAIN = 1 / np.sqrt(2)

ALL = "weights"  # every parameter array, one after the other

# In the order of the interaction's `paths`; two with filters of order 2, and the last with those of order 3.
PATHS = ("0x0->0", "0x1->1", "1x0->1", "1x1->0", "1x1->1", "1x2->1", "0x2->2", "0x3->3")
SCALAR_PATHS, VECTOR_PATHS, TENSOR_PATHS, THIRD_PATHS = (0, 3), (1, 2, 4, 5), (6,), (7,)
KNOWN_PATHS = {1: 5, 2: 7, 3: 8}  # by the filters' order

# Some paths: each a block (from 1) and a path, such as (2, "1x1->0"), or a path of all blocks, or a block.
Selection = Set[tuple[int, str] | str | int]


@dataclass(frozen=True)
class Block:
    """One interaction block: conv between two self-interactions, self-connection, nonlinearity."""

    radial: Dense  # last layer of the radial network, from this block's columns of its hidden numbers
    paths: np.ndarray  # [5, 7 or 8, 2]: slot in w, slot in ms, mv, mt or mo; -1 where absent
    self_in_s: Dense
    self_in_v: Dense | None
    self_out_s: Dense
    self_out_v: Dense | None
    self_connection_s: Dense | None
    self_connection_v: Dense | None
    residual: int  # leading scalars that a plain residual may carry over
    gates: int
    n_even: int  # of the scalars that it makes, and first
    n_polar: int  # of the vectors; under so3, where none is tracked, all
    # Products on the atom: two projections, side by side, of its messages of each order, and what takes them.
    project_s: Dense | None = None
    project_v: Dense | None = None
    project_t: Dense | None = None
    project_o: Dense | None = None
    products_s: Dense | None = None
    products_v: Dense | None = None

    @property
    def matrices(self) -> list[Dense]:
        """All of the block, in order."""
        found = (
            *(self.radial, self.self_in_s, self.self_in_v, self.self_out_s, self.self_out_v),
            *(self.self_connection_s, self.self_connection_v),
            *(self.project_s, self.project_v, self.project_t, self.project_o),
            *(self.products_s, self.products_v),
        )
        return [matrix for matrix in found if matrix is not None]


class Model:
    """The network's layout for given settings; it holds no weights."""

    def __init__(self, config: ModelConfig, n_species: int, mean_neighbours: float):
        self.config = config
        self.n_species = n_species
        self.mean_neighbours = mean_neighbours
        C = config.features
        self.parity = config.symmetry == "o3" and config.l_max == 1
        self.natural = config.parity == "natural" or not self.parity
        s, v = "e" * C, ""
        self.blocks: list[Block] = []
        for k in range(config.blocks):
            block, s, v = self._block(k, s, v, mean_neighbours)
            self.blocks.append(block)
        self.radial = [self._radial_hidden(d) for d in range(config.radial_depth)]
        self.output = [
            dense("output.0", s, "e" * (C // 2), ACTIVATION_GAIN),
            dense("output.1", "e" * (C // 2), "e", ACTIVATION_GAIN),
        ]

    def _block(self, k: int, s: str, v: str, mean_neighbours: float) -> tuple[Block, str, str]:
        """Block k from the labels of its input; also the labels of its output."""
        config, C, name = self.config, self.config.features, f"block{k}"
        gain = ACTIVATION_GAIN if k > 0 else 1.0
        last = k == config.blocks - 1
        half = C // 2

        turned = flip if self.parity else str
        s_next = "e" * C if last or self.natural else "e" * half + "o" * half
        v_next = turned(s_next) if config.l_max == 1 and not last else ""
        gates = "e" * len(v_next) if config.nonlinearity == "gate" else ""

        carried = {0: s, 1: turned(s), 2: v, 3: turned(v), 4: turned(v), 5: v, 6: s, 7: turned(s)}
        products, known = config.node_products, range(KNOWN_PATHS[config.filter_order])
        into_s = [p for p in SCALAR_PATHS if carried[p]]
        wanted = v_next or products and config.l_max == 1
        # With natural parity alone, products are what makes use of axial vectors.
        used = VECTOR_PATHS if products else [p for p in VECTOR_PATHS if set(carried[p]) & set(v_next)]
        into_v = [p for p in used if carried[p] and p in known] if wanted else []
        into_t, into_o = ([p for p in of if p in known and products] for of in (TENSOR_PATHS, THIRD_PATHS))
        into = into_s, into_v, into_t, into_o
        paths = np.full((len(known), 2), -1, np.int64)
        for slot, p in enumerate(sorted(sum(into, []))):
            paths[p] = slot, next(of for of in into if p in of).index(p)

        species = config.self_connection == "species"
        both = bool(v and v_next)
        messages = tuple("".join(carried[p] for p in of) for of in into)
        message_s, message_v, *_ = messages
        # With products on the atom, what they bring and the messages are two terms.
        out_gain = SUM_GAIN / np.sqrt(2) if products else SUM_GAIN
        block = Block(
            radial=self._radial_output(f"{name}.radial", k, C * sum(map(len, into))),
            paths=paths,
            self_in_s=dense(f"{name}.self_in.s", s, s, gain),
            self_in_v=dense(f"{name}.self_in.v", v, v, gain) if v else None,
            self_out_s=dense(f"{name}.self_out.s", message_s, gates + s_next, out_gain, mean_neighbours),
            self_out_v=dense(f"{name}.self_out.v", message_v, v_next, out_gain, mean_neighbours)
            if v_next
            else None,
            self_connection_s=dense(
                f"{name}.self_connection.s", s, gates + s_next, gain * SUM_GAIN, per_species=True
            )
            if species
            else None,
            self_connection_v=dense(f"{name}.self_connection.v", v, v_next, gain * SUM_GAIN, per_species=True)
            if species and both
            else None,
            residual=sum(a == b for a, b in zip(s, s_next, strict=True)),
            gates=len(gates),
            n_even=s_next.count("e"),
            n_polar=v_next.count(turned("e")),
        )
        if products:
            block = self._with_products(block, name, messages, gates + s_next, v_next, out_gain)
        return block, s_next, v_next

    def _with_products(
        self, block: Block, name: str, messages: tuple[str, ...], s: str, v: str, gain: float
    ) -> Block:
        """The block with products on the atom, from the labels of its messages, scalars, vectors, second and
        third moments, to those of its scalars (and gates) and vectors."""
        D, last = self.product_width, not v
        pairs = [factors(order, labels, D, last) for order, labels in zip("svto", messages, strict=True)]
        projections = [
            dense(f"{name}.project.{order}", labels, a + b, neighbours=self.mean_neighbours)
            if labels
            else None
            for order, labels, (a, b) in zip("svto", messages, pairs, strict=True)
        ]
        (a_s, b_s), (a_v, b_v), (a_t, b_t), (a_o, b_o) = pairs
        of_s = times(a_s, b_s) + times(a_v, b_v)
        of_v = times(a_s, b_v) + times(a_v, b_v) if b_v else ""
        if a_t:
            turned = times(a_t, b_v)
            of_s, of_v = of_s + times(a_t, b_t) + times(a_v, turned), of_v + turned
        if a_o:
            bent = times(a_o, b_t)
            of_s, of_v = of_s + times(a_v, bent) + times(a_o, b_o), of_v + bent
        return replace(
            block,
            project_s=projections[0],
            project_v=projections[1],
            project_t=projections[2],
            project_o=projections[3],
            products_s=dense(f"{name}.products.s", of_s, s, gain),
            products_v=dense(f"{name}.products.v", of_v, v, gain) if v else None,
        )

    @property
    def product_width(self) -> int:
        """Channels of each product on an atom: half the features. Their matrices cost as much as all others
        then, with all channels twice as much."""
        return max(1, self.config.features // 2)

    def _radial_hidden(self, d: int) -> Dense:
        """Hidden layer d of all blocks' radial networks, side by side."""
        K, W = self.config.blocks, self.config.radial_width
        if d == 0:
            return dense("radial.0", "e" * self.config.basis_size, "e" * (K * W), RADIAL_GAIN)
        pieces = [(b * W, W, b * W, W, b * W * W) for b in range(K)]
        scales = np.full(K, RADIAL_GAIN / np.sqrt(W))
        return Dense(f"radial.{d}", K * W, np.array(pieces, np.int64), scales, False)

    def _radial_output(self, name: str, block: int, columns: int) -> Dense:
        hidden = self.config.radial_depth > 0
        k = self.config.radial_width if hidden else self.config.basis_size
        place = [(block * k if hidden else 0, k, 0, columns, 0)]
        return Dense(name, columns, np.array(place, np.int64), np.array([RADIAL_GAIN / np.sqrt(k)]), False)

    def matrices(self) -> list[Dense]:
        """Every dense matrix of the model, in order."""
        found = list(self.radial)
        for b in self.blocks:
            found += b.matrices
        return found + self.output

    @property
    def paths(self) -> dict[tuple[int, str], tuple[int, int]]:
        """(block, path) of every path in order, blocks from 1: its slot in w, its slot in ms, mv or mt."""
        return {
            (k, path): (int(slot), int(place))
            for k, b in enumerate(self.blocks, 1)
            for path, (slot, place) in zip(PATHS, b.paths, strict=False)
            if slot >= 0
        }

    def switch_off(self, params: Params, paths_off: Selection) -> None:
        """Zero the weights of some paths, so that they send nothing.

        w = h W is linear in the last layer of the radial network: the path's columns of W make its w alone.
        UserError at what is no path of the model.
        """
        if not isinstance(paths_off, Set):
            raise UserError(f"paths_off: expected a set such as {{(1, {PATHS[0]!r})}}, found {paths_off!r}")
        C = self.config.features
        for one in paths_off:
            chosen = [(k, p) for k, p in self.paths if one in ((k, p), k, p)]
            if not chosen:
                there = ", ".join(p for p in PATHS if any(p == q for _, q in self.paths))
                raise UserError(
                    f"paths_off: expected a block from 1 to {self.config.blocks}, a path ({there}), or "
                    f"(block, path) that the model has, found {one!r}"
                )
            for k, p in chosen:
                radial, (slot, _) = self.blocks[k - 1].radial, self.paths[k, p]
                params[radial.name].reshape(-1, radial.columns)[:, slot * C : (slot + 1) * C] = 0

    def outside_blocks(self) -> list[str]:
        """Parameter arrays that the one operator for all blocks does not take."""
        return ["frequencies", *(m.name for m in self.radial)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter array; a matrix is a flat row, or one for each species."""
        rows = {m.name: (self.n_species if m.per_species else 1, m.size) for m in self.matrices()}
        C, B = self.config.features, self.config.basis_size
        return {"embedding": (self.n_species, C), "frequencies": (B,), **rows}

    def initial(self, seed: int, dtype: str) -> Params:
        """Standard normal weights; Bessel frequencies n pi."""
        params = Params(self.shapes(), dtype)
        random = np.random.default_rng(seed)
        for name, array in params.items():
            array[...] = random.standard_normal(array.shape)
            if name == "frequencies":
                array[...] = np.pi * np.arange(1, array.size + 1)
        return params

    def alone(self, k: int, p: Mapping[str, Node]) -> tuple[list[Dense], Block, Mapping[str, Node]]:
        """Hidden layers of block k's own radial network, the block after them, and the weights of both."""
        if not self.radial:
            return [], self.blocks[k], p
        B, W, (first, *rest) = self.config.basis_size, self.config.radial_width, self.radial
        columns = p[first.name].value.reshape(B, -1, W)[:, k].copy()
        layers = [replace(first, columns=W, pieces=np.array([[0, B, 0, W, 0]]))]
        for matrix in rest:
            place = np.array([[0, W, 0, W, matrix.pieces[k, 4]]])
            layers.append(replace(matrix, columns=W, pieces=place, scales=matrix.scales[k : k + 1]))
        radial = self.blocks[k].radial
        block = replace(self.blocks[k], radial=replace(radial, pieces=radial.pieces * [0, 1, 1, 1, 1]))
        return layers, block, {**p, first.name: Node(columns.reshape(1, -1))}

    def record(
        self,
        tape: Tape,
        p: Mapping[str, Node],
        batch: Batch,
        edge_vec: Node,
        stages: "Callable[..., Stages] | None" = None,
    ) -> Node:
        """Record the network on the tape; returns x[n, 1], energies in units of the species' scale.

        `p` has a node for each parameter array; stages: `Stages`, or what does them in another way.
        """
        stages = (stages or Stages)(self, p, batch)
        r, unit = stages.geometry(tape, edge_vec)
        h = stages.radial(tape, self.radial, r)
        s, v = stages.embedding(tape)
        for b in self.blocks:
            s, v = stages.block(tape, b, s, v, unit, h)
        return stages.readout(tape, s)


class Stages:
    """The network stage by stage, at given weights and graph; each records its operators on a tape.

    Between them go nodes: r[E] (Å) and unit[E, 3] of the edges, the last hidden numbers h[E, columns] of
    radial networks, s[n, C] and v[n, 3, C or 0] of the atoms.
    """

    def __init__(self, model: Model, p: Mapping[str, Node], batch: Batch):
        self.model, self.config, self.p, self.batch = model, model.config, p, batch
        self._tensor: Node | None = None  # of the edges, once it is made
        self._third: Node | None = None

    def geometry(self, tape: Tape, edge_vec: Node) -> tuple[Node, ...]:
        """r and unit."""
        E = self.batch.edge_count
        return tape.apply("edge_geometry", (edge_vec,), ((E,), (E, 3)))

    def radial(self, tape: Tape, layers: Sequence[Dense], r: Node) -> Node:
        """h, after these hidden layers."""
        h = self.basis(tape, r)
        for matrix in layers:
            h = self.layer(tape, matrix, h, SSP)
        return h

    def basis(self, tape: Tape, r: Node) -> Node:
        """Bessel functions within the envelope, [E, B]."""
        config, shape = self.config, (self.batch.edge_count, self.config.basis_size)
        inputs = r, self.p["frequencies"]
        return tape.apply("radial_basis", inputs, (shape,), config.cutoff, config.envelope_p)[0]

    def release(self, tape: Tape, h: Node) -> None:
        """Nothing will read h any more."""
        tape.pool.give(h.value)

    def embedding(self, tape: Tape) -> tuple[Node, Node]:
        """s and v before the first block."""
        batch, n = self.batch, len(self.batch.species)
        shape = n, self.config.features
        (s,) = tape.apply("embedding", (self.p["embedding"],), (shape,), batch.species, batch.species_ptr)
        return s, Node(tape.pool.take((n, 3, 0)))

    def block(self, tape: Tape, b: Block, s: Node, v: Node, unit: Node, h: Node) -> tuple[Node, Node]:
        """s and v after a block, from those before it."""
        config, n, C = self.config, len(self.batch.species), self.config.features
        none = Node(tape.pool.take((n, 3, 0)))
        neighbour_s = self.mix(tape, b.self_in_s, s)
        neighbour_v = self.mix(tape, b.self_in_v, v) if b.self_in_v else none
        ms, mv, *moments = self.messages(tape, b, neighbour_s, neighbour_v, unit, h)
        new_s = self.mix(tape, b.self_out_s, ms)
        new_v = self.mix(tape, b.self_out_v, mv) if b.self_out_v else none
        if b.products_s:
            ps, pv = self.products(tape, b, ms, mv, *moments)
            new_s = self.add_mixed(tape, new_s, b.products_s, ps, b.gates + C)
            if b.products_v:
                new_v = self.add_mixed(tape, new_v, b.products_v, pv, C)
            tape.done(ps, pv)
        tape.done(ms, mv, *moments)

        if config.self_connection == "species":
            new_s = self.add_mixed(tape, new_s, b.self_connection_s, s, b.gates + C)
            if b.self_connection_v:
                new_v = self.add_mixed(tape, new_v, b.self_connection_v, v, C)
        else:
            new_s = self.add(tape, new_s, s, b.gates, b.residual)
            if b.self_in_v and b.self_out_v:
                new_v = self.add(tape, new_v, v, 0, C)
        s, v = tape.apply(config.nonlinearity, (new_s, new_v), ((n, C), new_v.value.shape), b.n_even)
        return s, v if b.self_out_v else none

    def messages(self, tape: Tape, b: Block, s: Node, v: Node, unit: Node, h: Node) -> tuple[Node, ...]:
        """ms, mv, mt and mo, summed over the neighbours, from these as neighbours see them."""
        batch, shapes = self.batch, self.message_shapes(b)
        graph = (batch.senders, batch.receivers, batch.receiver_ptr, batch.sender_perm, batch.sender_ptr)
        w, order = self.mix(tape, b.radial, h), self.config.filter_order
        if order == 1:
            ms, mv = tape.apply("interaction", (s, v, unit, w), shapes[:2], *graph, b.paths)
            return ms, mv, *(Node(tape.pool.take(shape)) for shape in shapes[2:])
        if self._tensor is None:
            (self._tensor,) = tape.apply("edge_tensor", (unit,), ((batch.edge_count, 6),))
        found = tape.apply("interaction2", (s, v, unit, self._tensor, w), shapes[:3], *graph, b.paths)
        if order == 2:
            return *found, Node(tape.pool.take(shapes[3]))
        if self._third is None:
            (self._third,) = tape.apply("edge_tensor3", (unit,), ((batch.edge_count, 7),))
        return *found, *tape.apply("interaction3", (s, self._third, w), shapes[3:], *graph, b.paths)

    def message_shapes(self, b: Block) -> tuple[tuple[int, ...], ...]:
        """Of ms, mv, mt and mo."""
        n, C = len(self.batch.species), self.config.features
        into_s, into_v, into_t, into_o = (
            sum(p < len(b.paths) and bool(b.paths[p, 0] >= 0) for p in of)
            for of in (SCALAR_PATHS, VECTOR_PATHS, TENSOR_PATHS, THIRD_PATHS)
        )
        return (n, into_s * C), (n, 3, into_v * C), (n, 5, into_t * C), (n, 7, into_o * C)

    def products(self, tape: Tape, b: Block, *messages: Node) -> tuple[Node, ...]:
        """ps and pv, products of two projections of the summed messages ms, mv, mt and mo."""
        n, D = len(self.batch.species), self.model.product_width
        projections = [
            self.mix(tape, matrix, m) if matrix else m
            for matrix, m in zip((b.project_s, b.project_v, b.project_t, b.project_o), messages, strict=True)
        ]
        of_v, of_t, of_o = (matrix is not None for matrix in (b.project_v, b.project_t, b.project_o))
        shapes = (n, D * (1 + of_v + 2 * of_t + 2 * of_o)), (n, 3, D * (2 * of_v + of_t + of_o))
        return tape.apply("node_products", tuple(projections), shapes)

    def readout(self, tape: Tape, s: Node) -> Node:
        """x[n, 1], from the last block's s."""
        hidden, last = self.model.output
        return self.mix(tape, last, self.layer(tape, hidden, s, SILU))

    def layer(self, tape: Tape, matrix: Dense, x: Node, kind: int) -> Node:
        """A matrix, and an activation."""
        y = self.mix(tape, matrix, x)
        return tape.apply("activation", (y,), (y.value.shape,), kind)[0]

    def mix(self, tape: Tape, matrix: Dense, x: Node) -> Node:
        """Of the channels, by a matrix."""
        lead = x.value.shape[:-1]
        rows, n = math.prod(lead), len(self.batch.species)
        row_ptr = self.batch.species_ptr * (rows // max(n, 1)) if matrix.per_species else np.array([0, rows])
        inputs, shape = (x, self.p[matrix.name]), (*lead, matrix.columns)
        return tape.apply("dense", inputs, (shape,), row_ptr, matrix.pieces, matrix.scales)[0]

    def add(self, tape: Tape, a: Node, b: Node, col: int, count: int) -> Node:
        """a with the first `count` columns of b from its column `col` on."""
        (y,) = tape.apply("add", (a, b), (a.value.shape,), col, count)
        tape.done(a)
        return y

    def add_mixed(self, tape: Tape, a: Node, matrix: Dense, b: Node, count: int) -> Node:
        """a with the first `count` columns of b, mixed by a matrix."""
        mixed = self.mix(tape, matrix, b)
        y = self.add(tape, a, mixed, 0, count)
        tape.done(mixed)
        return y
