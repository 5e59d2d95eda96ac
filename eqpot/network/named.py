"""The network's stages with every array by its name in `network.steps`."""

from collections.abc import Mapping
from dataclasses import replace

from eqpot.network.labels import Dense
from eqpot.network.model import Block, Model, Stages
from eqpot.network.tape import Node, Tape
from eqpot.structures.graph import Batch


class NamedStages(Stages):
    """Keeps what the stages make, by name, in `found`: also ms, mv, mt and mo of each block, all paths side
    by side.

    strength: of all messages; it goes into the matrices that take them, so those that are found are without.
    """

    def __init__(self, model: Model, p: Mapping[str, Node], batch: Batch, strength: float = 1.0):
        super().__init__(model, p, batch)
        self.strength = strength
        self.found: dict[str, Node] = {}
        self._block = ""

    def _keep(self, name: str, node: Node) -> Node:
        self.found[name] = node
        return node

    def geometry(self, tape: Tape, edge_vec: Node) -> tuple[Node, ...]:
        r, unit = super().geometry(tape, edge_vec)
        self.found |= {"edge_vec": edge_vec, "r": r, "unit": unit}
        return r, unit

    def basis(self, tape: Tape, r: Node) -> Node:
        return self._keep("basis", super().basis(tape, r))

    def layer(self, tape: Tape, matrix: Dense, x: Node, kind: int) -> Node:
        return self._keep(matrix.name.replace("radial", "hidden"), super().layer(tape, matrix, x, kind))

    def embedding(self, tape: Tape) -> tuple[Node, Node]:
        s, v = super().embedding(tape)
        return self._keep("embedding", s), v

    def block(self, tape: Tape, b: Block, s: Node, v: Node, unit: Node, h: Node) -> tuple[Node, Node]:
        self._block = f"block{1 + next(k for k, own in enumerate(self.model.blocks) if own is b)}"
        s, v = super().block(tape, b, s, v, unit, h)
        return self._keep(f"{self._block}.s", s), self._keep(f"{self._block}.v", v)

    def messages(self, tape: Tape, b: Block, s: Node, v: Node, unit: Node, h: Node) -> tuple[Node, ...]:
        found = super().messages(tape, b, s, v, unit, h)
        if self._tensor is not None:
            self._keep("tensor", self._tensor)
        if self._third is not None:
            self._keep("third", self._third)
        names = (f"{self._block}.{name}" for name in ("ms", "mv", "mt", "mo"))
        return tuple(map(self._keep, names, found))

    def products(self, tape: Tape, b: Block, *messages: Node) -> tuple[Node, ...]:
        found = super().products(tape, b, *messages)
        return tuple(map(self._keep, (f"{self._block}.ps", f"{self._block}.pv"), found))

    def mix(self, tape: Tape, matrix: Dense, x: Node) -> Node:
        owner, _, what = matrix.name.partition(".")
        name = matrix.name
        if owner.startswith("block"):  # where blocks count from 0
            name = f"{self._block}.{'w' if what == 'radial' else what}"
        if what.startswith(("self_out", "project")):
            matrix = replace(matrix, scales=matrix.scales * self.strength)
        return self._keep(name, super().mix(tape, matrix, x))

    def add(self, tape: Tape, a: Node, b: Node, col: int, count: int) -> Node:
        return self._keep(
            f"{self._block}.sum.{'s' if a.value.ndim == 2 else 'v'}", super().add(tape, a, b, col, count)
        )

    def readout(self, tape: Tape, s: Node) -> Node:
        return self._keep("x", super().readout(tape, s))
