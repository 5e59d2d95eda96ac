"""The tape: a flat list of operators, walked four times for the gradient of a loss that holds forces.

Each array on the tape has four slots: its value, d (cotangent dE/dx), t (tangent dx/d epsilon) and td
(tangent of the cotangent). With E(r) recorded once, and a loss L(E, F) of energies and forces F = -dE/dr,

    dL/dW = d/d(epsilon) grad_W E(r + epsilon t_r) + dL/dE grad_W E,      t_r = -dL/dF

because grad_W (F · g) = -grad_W (dE/dr · g) = d/d(epsilon) grad_W E(r - epsilon g). So

    tape.apply(...)               1  fwd        values
    tape.reverse({E: 1})          2  bwd        d: of the edge vectors, hence forces and stress
    tape.tangent({edge_vec: t})   3  fwd_tan    t
    tape.reverse_tangent({E: g})  4  bwd_tan    td: of the parameters, the whole gradient at once

Backward walks go only where a wanted array can be reached: forces need no cotangent of the weights, and the
gradient needs no second derivative by the positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from eqpot.network.ops import Operator

if TYPE_CHECKING:
    from eqpot.network.pool import Pool


class Node:
    """An array on the tape and its three companions, None while nothing has been written."""

    __slots__ = ("value", "d", "t", "td")

    def __init__(self, value: np.ndarray):
        self.value = value
        self.d = self.t = self.td = None


class Tape:
    """Records operators as they run; see the module's docstring for the walks.

    `lean`: there will be one walk back at most, to positions. Arrays go back to the pool as soon as nothing
    reads them any more, and steps are gone after the walk.
    """

    def __init__(self, operators: Mapping[str, Operator], pool: Pool, lean: bool = False):
        self.operators = operators
        self.pool = pool
        self.lean = lean
        self.steps: list[tuple[Operator, tuple[Node, ...], tuple[Node, ...], tuple]] = []

    def apply(
        self, name: str, inputs: tuple[Node, ...], shapes: tuple[tuple[int, ...], ...], *static: object
    ) -> tuple[Node, ...]:
        """Run an operator of the table forward and record it; `shapes` are those of its outputs."""
        return self.call(self.operators[name], inputs, shapes, *static)

    def call(
        self, op: Operator, inputs: tuple[Node, ...], shapes: tuple[tuple[int, ...], ...], *static: object
    ) -> tuple[Node, ...]:
        """The same with an operator that is none of the table's."""
        outputs = tuple(Node(self.pool.take(shape)) for shape in shapes)
        op.fwd(*(o.value for o in outputs), *(i.value for i in inputs), *static)
        self.steps.append((op, inputs, outputs, static))
        return outputs

    def done(self, *nodes: Node) -> None:
        """No operator to come takes these, and those that did read no values on the way to positions."""
        if self.lean:
            self.pool.give(*(node.value for node in nodes))

    def forget(self, *kept: Node) -> None:
        """Drop all steps; the arrays of what was computed go back to the pool, but for those of `kept`."""
        for _, _, outputs, _ in self.steps:
            for o in outputs:
                if o not in kept:
                    self.pool.give(o.value, o.d, o.t, o.td)
        self.steps.clear()

    def reverse(self, seeds: Mapping[Node, np.ndarray], wanted: Iterable[Node]) -> None:
        """Second walk: from the cotangents of the outputs to those of the wanted leaves.

        A lean tape keeps the values of the nodes that have seeds.
        """
        reach = self._reach(wanted)
        for node, seed in seeds.items():
            node.d = seed
        for op, inputs, outputs, static in reversed(self.steps):
            if any(i in reach for i in inputs) and any(o.d is not None for o in outputs):
                dinputs = self._targets(inputs, reach, "d")
                op.bwd(*dinputs, *self._filled(outputs, "d"), *(i.value for i in inputs), *static)
            if self.lean:
                for o in outputs:
                    self.pool.give(o.d, None if o in seeds else o.value)
        if self.lean:
            self.steps.clear()

    def tangent(self, seeds: Mapping[Node, np.ndarray]) -> None:
        """Third walk: how every array moves when the seeded leaves move."""
        for node, seed in seeds.items():
            node.t = seed
        for op, inputs, outputs, static in self.steps:
            if all(i.t is None for i in inputs):
                continue
            for o in outputs:
                o.t = self.pool.take(o.value.shape)
            op.fwd_tan(*(o.t for o in outputs), *(i.t for i in inputs), *(i.value for i in inputs), *static)

    def reverse_tangent(self, seeds: Mapping[Node, np.ndarray], wanted: Iterable[Node]) -> None:
        """Fourth walk: how the second walk's cotangents move, plus the seeds' own cotangents."""
        reach = self._reach(wanted)
        for node, seed in seeds.items():
            node.td = seed
        for op, inputs, outputs, static in reversed(self.steps):
            if not any(i in reach for i in inputs) or all(o.td is None and o.d is None for o in outputs):
                continue
            tdinputs = self._targets(inputs, reach, "td")
            op.bwd_tan(
                *tdinputs,
                *self._filled(outputs, "td"),
                *(i.t for i in inputs),
                *self._filled(outputs, "d"),
                *(i.value for i in inputs),
                *static,
            )

    def _reach(self, wanted: Iterable[Node]) -> set[Node]:
        """Every node that depends on a wanted leaf."""
        reach = set(wanted)
        for _, inputs, outputs, _ in self.steps:
            if not reach.isdisjoint(inputs):
                reach.update(outputs)
        return reach

    def _targets(self, nodes: tuple[Node, ...], reach: set[Node], slot: str) -> list[np.ndarray | None]:
        """Where a backward call adds, zeroed at the first; None where nobody asks."""
        for node in nodes:
            if node in reach and getattr(node, slot) is None:
                setattr(node, slot, self.pool.full(node.value.shape, 0))
        return [getattr(node, slot) if node in reach else None for node in nodes]

    def _filled(self, nodes: tuple[Node, ...], slot: str) -> list[np.ndarray]:
        """What came to the outputs so far; zeros where nothing did."""
        for node in nodes:
            if getattr(node, slot) is None:
                setattr(node, slot, self.pool.full(node.value.shape, 0))
        return [getattr(node, slot) for node in nodes]
