"""Adam against steps worked out by hand, and its state taken up again."""

import numpy as np
import pytest

from eqpot.training.adam import Adam, MovingAverage


def test_first_steps_by_hand():
    """g = 2, then -1, rate 0.1.

    t = 1: m/(1-b1) = 2, v/(1-b2) = 4, step 0.1 · 2 / (2 + 1e-8).
    t = 2: m = 0.9·0.2 - 0.1 = 0.08, over 1 - 0.81 = 0.19; v = 0.999·0.004 + 0.001 = 0.004996, over 0.001999.
    """
    w = np.array([1.0])
    adam = Adam(w)
    adam.step(w, np.array([2.0]), 0.1)
    first = 1.0 - 0.1 * 2.0 / (2.0 + 1e-8)
    assert w[0] == pytest.approx(first, rel=1e-14)
    adam.step(w, np.array([-1.0]), 0.1)
    second = first - 0.1 * (0.08 / 0.19) / ((0.004996 / 0.001999) ** 0.5 + 1e-8)
    assert w[0] == pytest.approx(second, rel=1e-12)


def test_amsgrad_keeps_the_largest_second_moment():
    """g = 10, then 0: plain v falls to 0.0999, AMSGrad's stays at 0.1."""
    plain, kept = np.zeros(1), np.zeros(1)
    for w, amsgrad, v in ((plain, False, 0.0999), (kept, True, 0.1)):
        adam = Adam(w, amsgrad)
        adam.step(w, np.array([10.0]), 0.1)
        start = w[0]
        adam.step(w, np.array([0.0]), 0.1)
        expected = start - 0.1 * (0.9 / 0.19) / ((v / 0.001999) ** 0.5 + 1e-8)
        assert w[0] == pytest.approx(expected, rel=1e-12)
    assert plain[0] < kept[0]


def test_minimises_a_badly_scaled_bowl():
    scale = np.array([1e-3, 1.0, 1e3])
    w = np.array([1.0, -2.0, 0.5])
    adam = Adam(w)
    for k in range(3000):
        adam.step(w, 2 * scale * w, 0.02 * (1 - k / 3000))
    assert np.all(np.abs(w) < 1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_state_taken_up_gives_the_same_bits(dtype, amsgrad):
    gradients = np.random.default_rng(0).normal(size=(10, 7)).astype(dtype)
    w = np.ones(7, dtype)
    adam = Adam(w, amsgrad)
    for g in gradients[:5]:
        adam.step(w, g, 0.01)
    state = {k: np.copy(v) for k, v in adam.state().items()}
    again, other = w.copy(), Adam(w, amsgrad)
    other.restore(state)
    for g in gradients[5:]:
        adam.step(w, g, 0.01)
        other.step(again, g, 0.01)
    assert w.dtype == adam.m.dtype == adam.v.dtype == dtype
    assert np.array_equal(w, again)


def test_moving_average_by_hand():
    average = MovingAverage(np.array([0.0]), decay=0.5)
    average.update(np.array([1.0]))  # decay 2/11
    assert average.weights[0] == pytest.approx(9 / 11)
    for _ in range(20):  # decay 0.5 from t = 8 on
        average.update(np.array([1.0]))
    before = average.weights[0]
    average.update(np.array([3.0]))
    assert average.weights[0] == pytest.approx(0.5 * before + 1.5)


def test_moving_average_off_is_the_weights():
    w = np.array([0.1, 0.7], np.float32)
    average = MovingAverage(w * 0, decay=0.0)
    average.update(w)
    assert np.array_equal(average.weights, w)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_many_weights_step_like_one(amsgrad):
    """More than a thread takes at a time, against the formulas on whole arrays."""
    random = np.random.default_rng(0)
    w = random.normal(size=10_000)
    expected, m, v, largest = w.copy(), 0.0, 0.0, 0.0
    adam, average, mean = Adam(w, amsgrad), MovingAverage(w, 0.5), w.copy()
    for t in range(1, 4):
        g = random.normal(size=w.size) / t
        adam.step(w, g, 0.01)
        average.update(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - 0.999**t)) + 1e-8
        expected -= 0.01 * m / (1 - 0.9**t) / root
        decay = (1 + t) / (10 + t)
        mean = decay * mean + (1 - decay) * expected
    assert np.allclose(w, expected, rtol=1e-12, atol=1e-14)
    assert np.allclose(average.weights, mean, rtol=1e-12, atol=1e-14)
