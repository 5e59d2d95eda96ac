"""SOAP against its formulas written for one matrix, on gradients without directions, and taken up again."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from eqpot.config import ModelConfig
from eqpot.network.model import Model
from eqpot.network.params import Params
from eqpot.training import soap
from eqpot.training.adam import Adam
from eqpot.training.soap import Place, Soap, matrices

TWO = [Place(0, 3, 4, 6), Place(4, 3, 2, 6)]  # side by side in rows of six numbers; two more numbers follow


def by_formulas(W, gradients, rate, b1=0.95, b2=0.95, epsilon=1e-8):
    """One matrix, m kept outside the bases, renewed when `soap` renews those of its first matrix."""
    L, R, m, v = 0.0, 0.0, np.zeros_like(W), np.zeros_like(W)
    for t, G in enumerate(gradients):
        if t == 0 or (t + 1) % soap.OBSERVED == 0:
            L, R = L + (1 - b2) * (G @ G.T - L), R + (1 - b2) * (G.T @ G - R)
        if t == 0:
            QL, QR = (np.linalg.eigh(F)[1][:, ::-1] for F in (L, R))
            continue
        g = QL.T @ G @ QR
        m, v = m + (1 - b1) * (G - m), v + (1 - b2) * (g * g - v)
        u = (QL.T @ m @ QR) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + epsilon)
        W = W - rate * QL @ u @ QR.T
        if (t + 1) % soap.RENEWED == 0:
            QL, QR = np.linalg.qr(L @ QL)[0], np.linalg.qr(R @ QR)[0]
    return W


def trained(matrices, gradients, weights, rate=0.1):
    w = weights.copy()
    optimizer = Soap(w, matrices)
    for g in gradients:
        optimizer.step(w, g, rate)
    return w, optimizer


@pytest.fixture
def often(monkeypatch):
    """Bases renewed every few steps."""
    monkeypatch.setattr(soap, "OBSERVED", 2)
    monkeypatch.setattr(soap, "RENEWED", 3)


def test_steps_are_those_of_the_formulas(often):
    random = np.random.default_rng(0)
    gradients, W = random.normal(size=(12, 5, 3)), random.normal(size=(5, 3))
    found, _ = trained([Place(0, 5, 3, 3)], [g.ravel() for g in gradients], W.ravel())
    assert np.allclose(found.reshape(5, 3), by_formulas(W, gradients, 0.1), rtol=1e-9, atol=1e-11)


def test_matrices_side_by_side_and_numbers_of_none(often):
    """A matrix moves as if alone, and the rest as by Adam with the same constants."""
    random = np.random.default_rng(1)
    gradients, w = random.normal(size=(10, 20)), random.normal(size=20)
    found, _ = trained(TWO, gradients, w)
    index = TWO[1].index()  # the smaller one's bases are renewed first, as if it were alone
    alone, _ = trained([Place(0, 3, 2, 2)], [g[index].ravel() for g in gradients], w[index].ravel())
    assert np.allclose(found[index].ravel(), alone, rtol=1e-12, atol=1e-14)
    adam, rest = Adam(w[18:]), w[18:].copy()
    adam.beta1 = adam.beta2 = 0.95
    for g in gradients[1:]:
        adam.step(rest, g[18:], 0.1)
    assert np.allclose(found[18:], rest, rtol=1e-12)


def test_what_has_no_gradient_stays(often):
    """As an element that is in no frame of a step: its matrix, its row of another one, its numbers."""
    random = np.random.default_rng(6)
    gradients, w = random.normal(size=(8, 20)), random.normal(size=20)
    w, optimizer = trained(TWO, gradients, w)
    first, second = TWO[0].index(), TWO[1].index()
    still = np.concatenate([first.ravel(), second[1], [19]])
    before, state = w.copy(), {name: np.copy(value) for name, value in optimizer.state().items()}
    for _ in range(2 * soap.OBSERVED):
        gradient = random.normal(size=20)
        gradient[still] = 0
        optimizer.step(w, gradient, 0.1)
    moved = np.setdiff1d(np.arange(20), still)
    assert np.array_equal(w[still], before[still]) and (w[moved] != before[moved]).all()
    now, left, right = optimizer.state(), slice(9, 18), slice(4, 20)  # factors of 3 x 2 come first
    for name, there in (("v", first), ("left", left), ("right", right)):
        assert np.array_equal(now[name][there], state[name][there]), name
    m, m_before = (
        each["left_basis"][left].reshape(3, 3) @ each["m"][first] @ each["right_basis"][right].reshape(4, 4).T
        for each in (now, state)
    )
    assert np.allclose(m, m_before, rtol=1e-12, atol=1e-14)


def test_places_are_all_matrices_once():
    kinds = {"symmetry": "so3"}, {"l_max": 0}, {"radial_depth": 0}, {"radial_depth": 2}, {"filter_order": 1}
    for settings in ({}, *kinds, {"node_products": False}):
        config = ModelConfig.from_dict(ModelConfig.completed({"features": 8, "blocks": 3, **settings}))
        model = Model(config, 3, 10.0)
        params = Params(model.shapes(), "float32")
        found = np.concatenate([p.index().ravel() for p in matrices(model, params.starts)])
        outside = np.setdiff1d(np.arange(len(params.flat)), found)
        frequencies = params.starts["frequencies"] + np.arange(model.config.basis_size)
        assert len(found) == len(set(found.tolist()))
        assert np.array_equal(outside, frequencies)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["zero", "rank one", "tiny", "huge"])
def test_bases_stay_orthonormal(kind, dtype, often):
    """Whatever the gradients: none, of one direction, beyond what squares can hold."""
    random = np.random.default_rng(2)
    one = np.outer(random.normal(size=6), random.normal(size=4)).ravel()
    scale = {"zero": 0.0, "rank one": 1.0, "tiny": 1e-30, "huge": 1e30}[kind]
    with np.errstate(over="ignore", invalid="ignore"):
        w, optimizer = trained([Place(0, 6, 4, 4)], [(scale * one).astype(dtype)] * 20, np.ones(24, dtype))
    assert kind == "huge" or np.isfinite(w).all()
    for basis, size in ((optimizer.left_basis, 6), (optimizer.right_basis, 4)):
        Q = basis.reshape(size, size).astype(np.float64)
        assert np.allclose(Q.T @ Q, np.eye(size), rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)
    if kind == "zero":
        assert np.array_equal(w, np.ones(24))


def test_float32_follows_float64(often):
    """Of square matrices, whose first gradient leaves no direction open."""
    random = np.random.default_rng(3)
    gradients, w = random.normal(size=(12, 36)), random.normal(size=36)
    double, _ = trained([Place(0, 6, 6, 6)], gradients, w)
    single, _ = trained([Place(0, 6, 6, 6)], gradients.astype(np.float32), w.astype(np.float32))
    assert single.dtype == np.float32
    assert np.allclose(single, double, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_taken_up_gives_the_same_bits(dtype, often):
    random = np.random.default_rng(4)
    gradients, w = random.normal(size=(14, 20)).astype(dtype), random.normal(size=20).astype(dtype)
    whole, _ = trained(TWO, gradients, w)
    half, optimizer = trained(TWO, gradients[:7], w)
    state = {name: np.copy(value) for name, value in optimizer.state().items()}
    again = Soap(half, TWO)
    again.restore(state)
    for g in gradients[7:]:
        again.step(half, g, 0.1)
    assert np.array_equal(half, whole)


def test_threads_change_no_bit(often):
    import numba

    model = Model(ModelConfig(features=8, blocks=2), 2, 10.0)
    params = model.initial(0, "float32")
    there = matrices(model, params.starts)
    gradients = np.random.default_rng(5).normal(size=(8, len(params.flat))).astype(np.float32)
    found = []
    before = numba.get_num_threads()
    for threads in {1, before}:
        numba.set_num_threads(threads)
        found.append(trained(there, gradients, params.flat)[0])
    numba.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found)


def test_threads_of_blas_change_no_bit(often):
    """Which they would, of the eigenvectors of this many rows."""
    random, rows = np.random.default_rng(8), 150
    gradients, w = random.normal(size=(7, rows * rows)).astype(np.float32), np.zeros(rows * rows, np.float32)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            found.append(trained([Place(0, rows, rows, rows)], gradients, w)[0])
    assert np.array_equal(*found)


def test_finds_the_axes_of_a_skew_bowl():
    """L(W) = |A W B|^2 / 2, A and B turned: Adam goes along the axes, SOAP along those of A and B."""
    random = np.random.default_rng(6)
    A, B = (np.diag(np.geomspace(1, 1e-2, n)) @ np.linalg.qr(random.normal(size=(n, n)))[0] for n in (6, 5))
    start = random.normal(size=(6, 5))
    left = {}
    for name, make in (("adam", Adam), ("soap", lambda w: Soap(w, [Place(0, 6, 5, 5)]))):
        w = start.ravel().copy()
        optimizer = make(w)
        for k in range(600):
            W = w.reshape(6, 5)
            optimizer.step(w, (A.T @ A @ W @ B @ B.T).ravel(), 0.05 * (1 - k / 600))
        left[name] = np.sum((A @ w.reshape(6, 5) @ B) ** 2)
    assert left["soap"] < 0.1 * left["adam"]
