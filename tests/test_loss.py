"""The loss by hand, its gradient against central differences, and unknown labels."""

import numpy as np
import pytest
from toy import MODEL, toy_dataset

from eqpot.config import Config, LossConfig
from eqpot.potential import Potential
from eqpot.structures.data import write_dataset
from eqpot.structures.frames import Frames, Labels
from eqpot.training.loss import known_numbers, loss_and_gradient
from eqpot.training.trainer import Trainer
from eqpot.training.validation import compare

COUNTS, VOLUMES = np.array([2, 3]), np.array([3.0, 5.0])


def sample(seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    return Labels(rng.normal(size=2), rng.normal(size=(5, 3)), rng.normal(size=(2, 3, 3)))


@pytest.mark.parametrize(
    ("errors", "energy", "stress"),
    [("per_atom", (1 + 4) / 2, 0.01), ("root_n", (4 / 2 + 36 / 3) / 2, (0.3**2 / 2 + 0.5**2 / 3) / 2)],
)
def test_value_by_hand(errors, energy, stress):
    target = Labels(np.zeros(2), np.zeros((5, 3)), np.zeros((2, 3, 3)))
    prediction = Labels(np.array([2.0, 6.0]), np.full((5, 3), 0.5), np.full((2, 3, 3), 0.1))
    config = LossConfig(errors=errors, energy=3.0, forces=10.0, stress=100.0)
    value, parts, *_ = loss_and_gradient(config, prediction, target, COUNTS, volumes=VOLUMES)
    assert parts == pytest.approx({"energy": energy, "forces": 0.25, "stress": stress})
    assert value == pytest.approx(3.0 * energy + 10 * 0.25 + 100 * stress)


def test_errors_of_independent_atoms_count_alike_in_any_number_of_them():
    """A structure beside another far away, of equal errors: the same loss as one of them, root_n's sense."""
    random = np.random.default_rng(2)
    found = {1: [], 4: []}
    for _ in range(4000):
        errors, virials = random.normal(size=4), random.normal(size=(4, 3, 3))
        for n, values in found.items():
            prediction = Labels(
                np.array([errors[:n].sum()]), stress=virials[None, :n].sum(axis=1) / (20.0 * n)
            )
            target = Labels(np.zeros(1), stress=np.zeros((1, 3, 3)))
            volumes = np.array([20.0 * n])
            _, parts, *_ = loss_and_gradient(LossConfig(), prediction, target, np.array([n]), volumes=volumes)
            values.append((parts["energy"], parts["stress"]))
    assert np.mean(found[1], axis=0) == pytest.approx([1, 1], rel=0.1)
    assert np.mean(found[4], axis=0) == pytest.approx([1, 1], rel=0.1)


def test_huber_by_hand():
    """Errors 0.5 and 3 with delta 1: 0.25, and 2·3 - 1 = 5 in place of 9."""
    config = LossConfig(kind="huber", huber_delta=1.0)
    prediction = Labels(forces=np.array([[0.5, 3.0, -3.0]]))
    value, parts, _, gradient, _ = loss_and_gradient(config, prediction, Labels(forces=np.zeros((1, 3))), [1])
    assert value == parts["forces"] == pytest.approx((0.25 + 5 + 5) / 3)
    assert gradient == pytest.approx(np.array([[1.0, 2.0, -2.0]]) / 3)


@pytest.mark.parametrize("kind", ["squared", "huber"])
@pytest.mark.parametrize("errors", ["root_n", "per_atom"])
@pytest.mark.parametrize("weighted", ["none", "atoms", "atoms and frames"])
def test_gradient_against_central_differences(kind, errors, weighted):
    config = LossConfig(errors, energy=0.7, forces=1.3, stress=2.1, kind=kind, huber_delta=0.8)
    prediction, target = sample(0), sample(1)
    target.energy[0] = np.nan
    target.forces[1, 2] = np.nan
    target.stress[1, 0, 1] = np.nan
    weights = np.array([0.5, 2.0, 1.0, 0.1, 3.0]) if "atoms" in weighted else None
    frames = np.array([0.3, 2.5]) if "frames" in weighted else None
    of_batch = COUNTS, weights, VOLUMES, frames
    _, _, *gradients = loss_and_gradient(config, prediction, target, *of_batch)
    step = 1e-6
    for array, gradient in zip(vars(prediction).values(), gradients, strict=True):
        assert gradient.shape == array.shape and gradient.dtype == np.float64
        for index in np.ndindex(array.shape):
            start, values = array[index], []
            for h in (step, -step):
                array[index] = start + h
                values.append(loss_and_gradient(config, prediction, target, *of_batch)[0])
            array[index] = start
            assert abs((values[0] - values[1]) / (2 * step) - gradient[index]) < 1e-8


def test_unknown_labels_are_no_labels():
    """A frame without labels changes nothing for the others: means run over what is known."""
    config, prediction, target = LossConfig(), sample(0), sample(1)
    target.energy[1], target.forces[2:], target.stress[1] = np.nan, np.nan, np.nan
    whole = loss_and_gradient(config, prediction, target, COUNTS, volumes=VOLUMES)
    first = Labels(prediction.energy[:1], prediction.forces[:2], prediction.stress[:1])
    known = Labels(target.energy[:1], target.forces[:2], target.stress[:1])
    alone = loss_and_gradient(config, first, known, COUNTS[:1], volumes=VOLUMES[:1])
    assert whole[0] == pytest.approx(alone[0], rel=1e-15)
    assert np.array_equal(whole[3][:2], alone[3]) and not whole[3][2:].any()


@pytest.mark.parametrize("unknown", [None, 0, 1])
def test_parts_of_a_batch_add_up(unknown):
    """Also where one part has no labels, and of terms without any."""
    config, prediction, target = LossConfig(), sample(0), sample(1)
    target.stress[:] = np.nan
    ends = np.array([0, 2, 5])
    if unknown is not None:
        target.energy[unknown], target.forces[ends[unknown] : ends[unknown + 1]] = np.nan, np.nan
    whole = loss_and_gradient(config, prediction, target, COUNTS, volumes=VOLUMES)
    counts, parts = known_numbers(target), []
    for k in range(2):
        frame, atoms = slice(k, k + 1), slice(ends[k], ends[k + 1])
        labels = [Labels(x.energy[frame], x.forces[atoms], x.stress[frame]) for x in (prediction, target)]
        parts.append(loss_and_gradient(config, *labels, COUNTS[frame], volumes=VOLUMES[frame], counts=counts))
    assert sum(part[0] for part in parts) == pytest.approx(whole[0], rel=1e-15)
    for name, value in whole[1].items():
        assert sum(part[1][name] for part in parts) == pytest.approx(value, rel=1e-15, nan_ok=True)
    for gradients in zip(*(part[2:] for part in (whole, *parts)), strict=True):
        assert np.array_equal(np.concatenate(gradients[1:]), gradients[0])


def test_weights_of_frames_by_hand():
    """Each term is linear in the weights, over counts that do not know them; none are ones."""
    prediction, target = sample(0), sample(1)
    plain = loss_and_gradient(LossConfig(), prediction, target, COUNTS, volumes=VOLUMES)
    terms = []
    for frames in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.25, 3.0]):
        weights = np.array(frames)
        of_batch = COUNTS, np.repeat(weights, COUNTS), VOLUMES, weights
        terms.append(loss_and_gradient(LossConfig(), prediction, target, *of_batch))
    assert terms[0][0] == plain[0] and terms[0][1] == plain[1]
    for ones, expected in zip(terms[0][2:], plain[2:], strict=True):
        assert np.array_equal(ones, expected)
    for name in ("energy", "forces", "stress"):
        first, second, both = (found[1][name] for found in terms[1:])
        assert first > 0 and both == pytest.approx(0.25 * first + 3 * second)


def test_absent_arrays_add_nothing():
    value, parts, grad_energy, grad_forces, grad_stress = loss_and_gradient(
        LossConfig(), Labels(np.ones(2), np.ones((5, 3)), None), Labels(None, np.zeros((5, 3)), None), COUNTS
    )
    assert value == 1.0 and parts["forces"] == 1.0
    assert np.isnan(parts["energy"]) and np.isnan(parts["stress"])
    assert not grad_energy.any() and grad_forces.all() and not grad_stress.any()
    assert grad_stress.shape == (2, 3, 3)


def test_a_prediction_that_is_nan_is_not_hidden():
    prediction, target = sample(0), sample(1)
    prediction.forces[0, 0] = np.nan
    assert np.isnan(loss_and_gradient(LossConfig(), prediction, target, COUNTS, volumes=VOLUMES)[0])


def test_float32_predictions_are_compared_in_float64():
    prediction = Labels(energy=np.array([-1e5 + 0.25], np.float64), forces=np.zeros((1, 3), np.float32))
    target = Labels(energy=np.array([-1e5]), forces=np.zeros((1, 3)))
    assert loss_and_gradient(LossConfig(), prediction, target, [1])[1]["energy"] == 0.0625


def test_stress_of_frames_without_a_volume_is_told_and_left_out(tmp_path):
    """A slab's stress per volume of an arbitrary cell means nothing, and none is predicted."""
    dataset = toy_dataset(3)
    dataset.pbc[1, 2], dataset.cell[1, 2] = False, 0.0
    frames = Frames(dataset, dataset.species, 3.5)
    assert "the stress of 1 of 3 frames is not used (first: frame 1)" in frames.warning()
    assert frames.dataset.known("stress").tolist() == [True, False, True]
    assert dataset.known("stress").all()
    potential = Potential.create(dataset.species, **MODEL)
    content, _, warning = compare(potential, dataset)
    assert np.isfinite(content["stress_rmse"]) and warning == frames.warning()
    write_dataset(tmp_path / "a.h5", dataset)
    train = {"n_train": 2, "n_valid": 1, "max_epochs": 2}
    trainer = Trainer.start(
        Config.from_dict({"model": MODEL, "train": train}), tmp_path / "a.h5", tmp_path / "run"
    )
    trainer.run()
    assert np.isfinite(trainer.rows[-1]["loss"])
