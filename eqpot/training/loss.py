"""The loss of a batch and its derivative with respect to the predictions.

    L =   w_F · mean over known force components of  a_i rho(F - F*)              F in eV/Å
        + w_E · mean over frames of known energy of  b_f rho((E - E*) / sqrt(N))      E in eV, N atoms
        + w_S · mean over known stress components of b_f rho((S - S*) V / sqrt(N))    S in eV/Å^3, V in Å^3

rho(x) = x^2, or Huber's: x^2 for |x| <= delta, and its tangent 2 delta |x| - delta^2 beyond. Errors that
atoms make independently of each other add up like sqrt(N) in the energy and in the virial S V, so that
energies of small and large structures count alike, and each about as much as the forces on an atom. A
virial sums forces times distances, so that its errors are larger by a length; the default weight of 0.01
measures them in units of 10 Å (bench/accuracy.md has how it was chosen). With
`errors = "per_atom"` the energy's error is divided by N and the stress taken as it is. The weights carry the
inverse units, so L is a pure number. b_f is the weight of frame f, 1 unless data or settings give another,
and a_i that of atom i's element times its frame's; sums are divided by counts, not by weights. A NaN label is
an unknown one: it adds nothing to a sum nor to the count that the sum is divided by.
"""

from collections.abc import Mapping

import numpy as np

from eqpot.backend import module_of
from eqpot.config import LossConfig
from eqpot.structures.frames import Labels


def known_numbers(target: Labels) -> dict[str, int]:
    """How many numbers are known of each label, by its name; 0 of those that there are not."""
    arrays = {name: getattr(target, name) for name in ("energy", "forces", "stress")}
    return {k: 0 if label is None else int((~np.isnan(label)).sum()) for k, label in arrays.items()}


def loss_and_gradient(
    config: LossConfig,
    prediction: Labels,
    target: Labels,
    atom_counts: np.ndarray,
    atom_weights: np.ndarray | None = None,
    volumes: np.ndarray | None = None,
    frame_weights: np.ndarray | None = None,
    counts: Mapping[str, int] | None = None,
) -> tuple[float, dict[str, float], np.ndarray, np.ndarray, np.ndarray]:
    """Loss, its unweighted terms, and dL/dE [f], dL/dF [n, 3], dL/dS [f, 3, 3], all float64.

    atom_counts[f] is N of each frame, atom_weights[n] are the a_i (None: all 1), volumes[f] are the V, needed
    with stress alone, frame_weights[f] the b_f (None: all 1). counts: `known_numbers` of the batch that these
    frames are a part of, whose loss is the sum over its parts; None: they are all of it. A term whose labels
    are missing is NaN among the terms, zero in the loss, and its gradient zero. All arrays are of one
    backend; on a GPU loss and terms stay there too, as arrays of one number, so that nobody waits for it
    here.
    """
    like = next(x for x in (prediction.forces, prediction.energy) if x is not None)
    frames = len(atom_counts)
    atoms = len(like) if prediction.forces is not None else int(np.sum(atom_counts))
    none = [np.zeros_like(like, np.float64, shape=shape) for shape in ((frames,), (atoms, 3), (frames, 3, 3))]
    per_energy = module_of(like).asarray(atom_counts, np.float64)
    per_stress = 1.0
    if config.errors == "root_n":
        per_energy = per_energy**0.5
        if prediction.stress is not None:  # 1: of frames without a volume no stress is known
            volumes = np.where(np.isnan(volumes), 1.0, volumes)
            per_stress = (per_energy / volumes)[:, None, None]
    a = none[1][:, :1] + 1 if atom_weights is None else atom_weights[:, None]
    b, c = (1.0, 1.0) if frame_weights is None else (frame_weights, frame_weights[:, None, None])

    scales = {
        "energy": (none[0], per_energy, b),
        "forces": (none[1], 1.0, a),
        "stress": (none[2], per_stress, c),
    }
    terms = {
        name: _term(config, getattr(prediction, name), getattr(target, name), *of, counts and counts[name])
        for name, of in scales.items()
    }
    (energy, grad_energy), (forces, grad_forces), (stress, grad_stress) = terms.values()
    parts = {"energy": energy, "forces": forces, "stress": stress}
    weights = {"energy": config.energy, "forces": config.forces, "stress": config.stress}
    present = {k: part for k, part in parts.items() if part is not None}
    value = sum(weights[k] * total for k, (total, _) in present.items() if weights[k])
    parts = {k: present[k][1] if k in present else float("nan") for k in parts}
    return value, parts, config.energy * grad_energy, config.forces * grad_forces, config.stress * grad_stress


def _term(
    config: LossConfig, value, label, none, per, weight, count: int | None
) -> tuple[tuple | None, np.ndarray]:
    """sum(weight · rho((value - label) / per)) over the known labels, divided by `count` (None: of them),
    where that is 0 0 and NaN, and its derivative by `value`; None and `none` without labels."""
    if value is None or label is None:
        return None, none
    known = ~np.isnan(label)
    count = known.sum() if count is None else count
    some, count = count > 0, np.maximum(count, 1)
    x = np.where(known, value.astype(np.float64) - label, 0.0) / per
    if config.kind == "huber":
        delta = config.huber_delta
        inside = np.abs(x) <= delta
        rho = np.where(inside, x * x, 2 * delta * np.abs(x) - delta * delta)
        slope = np.where(inside, 2 * x, 2 * delta * np.sign(x))
    else:
        rho, slope = x * x, 2 * x
    mean = np.sum(weight * rho) / count
    return (mean, np.where(some, mean, np.nan)[()]), weight * slope / per / count
