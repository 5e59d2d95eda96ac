"""Which way computes what: the first that takes it. `docs/layout.md` tells what each is held to."""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np

from eqpot.engines import force_call, taped
from eqpot.engines.fitted import Fitted
from eqpot.engines.observables import Prediction
from eqpot.structures.graph import Batch


@cache
def ways(backend: str) -> tuple[ModuleType, ...]:
    """To evaluate: modules with `takes` and `predict`. The last one takes everything."""
    if backend == "cuda":
        from eqpot.engines import by_blocks, fused, recorded

        return (
            recorded,  # few atoms: the whole call is one launch
            by_blocks,  # what does not fit as a whole
            fused,
        )
    if backend == "cpu":
        return (
            force_call,  # nonlinearity gate: compiled in one piece
            taped,
        )
    return (taped,)  # the reference


def predict(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """Energies, and forces and stress where asked for; UserError at a batch that a GPU cannot hold."""
    forces = forces or stress
    try:
        for way in ways(f.backend):
            if way.takes(f, batch, forces):
                return way.predict(f, batch, forces, stress)
    except MemoryError as e:
        if f.backend != "cuda":
            raise
        from eqpot.engines.by_blocks import too_large

        raise too_large(f.model, f.pool, batch, forces) from e


def gradient(
    f: Fitted, batch: Batch, loss: Callable[[Prediction], tuple], stress: bool
) -> tuple[tuple, np.ndarray]:
    """What `Potential.loss_gradient` returns: on a CPU by compiled walks where they know the model."""
    if f.backend == "cpu":
        from eqpot.engines import training_walks  # only training needs it, and it takes long to import

        if training_walks.takes(f):
            return training_walks.gradient(f, batch, loss, stress)
    return taped.gradient(f, batch, loss, stress)
