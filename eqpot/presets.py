"""Settings of `eqpot fit` that go together, by name; what they leave out has its default."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # bench/accuracy.md has errors and times of the three.
        "fast": {"model": {"features": 32}},
        "default": {},
        # Few smooth functions of the distance: where frames are few, finer ones fit the frames and no others.
        "accurate": {
            "model": {
                "features": 128,
                "blocks": 3,
                "filter_order": 3,
                "basis_size": 5,
                "envelope_p": 3,
                "radial_depth": 0,
            }
        },
        # The hyperparameters of NequIP's preprint, as far as it tells them, and all defaults of eqpot 0.1.
        "paper": {
            "model": {
                "features": 64,
                "blocks": 4,
                "radial_depth": 1,
                "radial_width": 8,
                "parity": "both",
                "filter_order": 1,
                "node_products": False,
            },
            "loss": {"errors": "per_atom", "energy": 1.0, "forces": 1.0, "stress": 1.0},
            "train": {
                "batch_size": 5,
                "optimizer": "adam",
                "learning_rate": 0.01,
                "schedule": "plateau",
                "cooldown": 0.3,
                "ema": 0.999,
                "max_epochs": 10_000,
                "refit_shifts": False,
            },
        },
    }
)
