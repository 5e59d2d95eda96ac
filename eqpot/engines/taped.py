"""Operator by operator on the tape: every model, every backend; the gradient of a loss, see `network.tape`.

What computes the network is an argument, `walk(model, tape, p, batch, edge_vec, seed)`: it records it and
returns x[n, 1]; with a seed dE/dx [n, 1] it also leaves dE/d edge_vec [E, 3] in edge_vec.d.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eqpot.backend import moved
from eqpot.engines.observables import Prediction, edge_tangent, of_species, prediction
from eqpot.kernels.forces import forces_cpu, forces_cuda
from eqpot.network.isolated import less_lone, with_lone_atoms, with_lone_seeds
from eqpot.network.model import ALL, Model, Stages
from eqpot.network.ops import operators
from eqpot.network.tape import Node, Tape
from eqpot.structures.graph import Batch

if TYPE_CHECKING:
    from eqpot.engines.fitted import Fitted

Walk = Callable[[Model, Tape, Mapping[str, Node], Batch, Node, np.ndarray | None], Node]


class Record(NamedTuple):
    """The first two walks: what they gave, and where the others begin."""

    prediction: Prediction
    tape: Tape
    x: Node
    edge_vec: Node
    nodes: dict[str, Node]


def takes(*_: object) -> bool:
    """Everything."""
    return True


def predict(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """Energies, and forces and stress where asked for."""
    try:
        return record(f, batch, forces, stress).prediction.on("cpu")
    finally:
        f.pool.release()


def one_by_one(
    model: Model,
    tape: Tape,
    p: Mapping[str, Node],
    batch: Batch,
    edge_vec: Node,
    seed: np.ndarray | None,
    kind: Callable[..., Stages] = Stages,
) -> Node:
    """All operators on one tape."""
    x = model.record(tape, p, batch, edge_vec, kind)
    if seed is not None:
        tape.reverse({x: seed}, [edge_vec])
    return x


def record(
    f: Fitted,
    batch: Batch,
    forces: bool,
    stress: bool,
    walk: Walk = one_by_one,
    arrays: Mapping[str, np.ndarray] | None = None,
    lean: bool = False,
) -> Record:
    """Walks one and two, in arrays where the potential is; the pool's until its `release`.

    arrays: what the walk takes for weights, by default each array by its name; lean: nothing will follow.
    """
    batch = moved(batch, f.backend)
    alone = f.model.config.isolated_atoms
    walked = with_lone_atoms(batch) if alone else batch
    tape = Tape(operators(f.backend), f.pool, lean)
    nodes = {name: Node(array) for name, array in (f.params if arrays is None else arrays).items()}
    edge_vec = Node(batch.edge_vec.astype(f.dtype))
    seed = of_species(f.scale, walked).astype(f.dtype)[:, None] if forces else None
    x = walk(f.model, tape, nodes, walked, edge_vec, seed)
    found = d = None
    if forces:
        d = np.zeros_like(edge_vec.value) if edge_vec.d is None else edge_vec.d
        found = np.empty_like(batch.edge_vec, shape=(len(batch.species), 3))
        of_edges = forces_cuda if f.backend == "cuda" else forces_cpu
        of_edges(found, d, batch.receiver_ptr, batch.sender_perm, batch.sender_ptr)
    numbers = less_lone(x.value[:, 0], batch.species_ptr) if alone else x.value[:, 0]
    return Record(prediction(f, batch, numbers, found, d if stress else None), tape, x, edge_vec, nodes)


def gradient(
    f: Fitted,
    batch: Batch,
    loss: Callable[[Prediction], tuple],
    stress: bool,
    walk: Walk = one_by_one,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> tuple[tuple, np.ndarray]:
    """What `Potential.loss_gradient` returns: all four walks. `walk` and `arrays` as for `record`.

    ZBL, which has no weights, adds a constant to each prediction: it enters the gradient through dL/dE, dL/dF
    and dL/dS alone, and the walks know nothing of it.
    """
    batch = moved(batch, f.backend)
    try:
        predicted, tape, x, edge_vec, nodes = record(f, batch, True, stress, walk, arrays)
        outcome = loss(predicted)
        _, _, grad_energy, grad_forces, grad_stress = outcome
        tangent = edge_tangent(batch, grad_forces, grad_stress if stress else None)
        tape.tangent({edge_vec: tangent.astype(f.dtype)})
        flat = f.gradient()
        flat[:] = 0
        views = f.params.split(flat) | {ALL: flat[None]}
        for name, node in nodes.items():
            node.td = views[name]
        seed = of_species(f.scale, batch) * grad_energy[batch.frame]
        if f.model.config.isolated_atoms:
            seed = with_lone_seeds(seed, batch.species_ptr)
        tape.reverse_tangent({x: seed.astype(f.dtype)[:, None]}, nodes.values())
    finally:
        f.pool.release()
    return outcome, flat
