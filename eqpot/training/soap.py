"""SOAP: Adam in the eigenbasis of Shampoo's two factors of every matrix (Vyas et al., arXiv:2409.11321).

A weight matrix W [k, m] has gradients G. Two running means say which directions of its rows and of its
columns these share, and Q_L [k, k], Q_R [m, m] are their eigenvectors, one a column:

    L += (1 - beta2) (G G^T - L)          R += (1 - beta2) (G^T G - R)

In these bases the numbers of a gradient are nearly uncorrelated, so that scaling each by its own size, which
is what Adam does, comes close to what the inverse of the curvature would do:

    g = Q_L^T G Q_R          m += (1 - beta1) (g - m)          v += (1 - beta2) (g^2 - v)
    W -= rate · Q_L [(m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)] Q_R^T

The first gradient only makes the first bases. Then L and R take in every OBSERVED-th gradient, and the bases
follow them by one step of orthogonal iteration, Q <- qr(L Q), every RENEWED steps, another matrix at each; m,
which lives in the bases, turns with them. Numbers that belong to no matrix take Adam as they are.

What has no gradient in a step stays: a matrix with its m, v, L and R, a row of one, a number of none. So do
the weights of elements that no frame of the step has. If m and v fell meanwhile, v to nothing, each frame of
a rare element would move its weights by 0.05 / 0.05^(1/2) sum_n 0.95^(n/2) = 9 rates, most of them within 40
steps and all along one gradient: fits of sets of many elements diverged by that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby

import numpy as np

from eqpot.backend import array_module, to_device
from eqpot.kernels import adam as adam_kernels
from eqpot.kernels import soap as kernels
from eqpot.kernels.blas import one_thread
from eqpot.network.model import Model

OBSERVED, RENEWED = 5, 100  # steps


@dataclass(frozen=True)
class Place:
    """Where a matrix [rows, columns] lies in the flat weights: its first number, and from row to row."""

    start: int
    rows: int
    columns: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    def index(self) -> np.ndarray:
        """The places of its numbers, [rows, columns]."""
        return self.start + self.stride * np.arange(self.rows)[:, None] + np.arange(self.columns)


def matrices(model: Model, starts: Mapping[str, int]) -> list[Place]:
    """The matrices among the weights of a model, whose arrays begin at `starts`.

    Each block of a block-diagonal matrix and each species' matrix is one of its own; so are, side by side in
    one array, the first layers of the blocks' radial networks, and in their last layers the columns of each
    path.
    """
    C = model.config.features
    found = [Place(starts["embedding"], model.n_species, C, C)]
    widths = {m.name: model.config.radial_width for m in model.radial[:1]}
    widths |= {b.radial.name: C for b in model.blocks}
    for matrix in model.matrices():
        width = widths.get(matrix.name)
        for species in range(model.n_species if matrix.per_species else 1):
            for _, rows, _, columns, offset in matrix.pieces.tolist():
                start = starts[matrix.name] + species * matrix.size + offset
                parts = range(start, start + columns, width or columns)
                found += [Place(part, rows, width or columns, columns) for part in parts]
    return found


class Soap:
    """SOAP on one flat vector, in place; `matrices` are in it. The same inputs give the same bits.

    m, v: as in the module's text, laid out like the weights. left, right, left_basis, right_basis: the L, R,
    Q_L and Q_R of all matrices one after the other. With backend "cuda" the weights and all of these are on
    the GPU.
    """

    beta1 = beta2 = 0.95
    epsilon = 1e-8

    def __init__(self, weights: np.ndarray, matrices: Sequence[Place], backend: str = "cpu"):
        self.steps = 0
        self.backend = backend
        ordered = sorted(matrices, key=lambda place: place.shape)
        self.m, self.v = weights * 0, weights * 0
        left, right = (np.array([getattr(p, side) for p in ordered]) ** 2 for side in ("rows", "columns"))
        left_at, right_at = np.cumsum(left) - left, np.cumsum(right) - right
        like = dict(dtype=weights.dtype)
        xp = array_module(backend)
        self.left, self.left_basis = xp.zeros((2, left.sum()), **like)
        self.right, self.right_basis = xp.zeros((2, right.sum()), **like)
        self.right_turned = self.right_basis * 0  # Q_R^T of all
        inside = np.concatenate([place.index().ravel() for place in ordered])
        rest = np.setdiff1d(np.arange(len(weights)), inside)
        # Threads take equal numbers of matrices, in this order: large and small ones in turn.
        turn = np.random.default_rng(0).permutation(len(ordered))
        table = np.array([astuple(place) for place in ordered])
        self._layout = table[turn], rest, left_at[turn], right_at[turn]
        self._rest = to_device(rest, backend)
        self._groups = []
        for shape, members in groupby(enumerate(ordered), key=lambda pair: pair[1].shape):
            first, *_ = numbered = list(members)
            index = np.array([place.index() for _, place in numbered])
            at = {"left": left_at[first[0]], "right": right_at[first[0]]}
            self._groups.append(_Group(first[0], to_device(index, backend), shape, at, self))

    def step(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Move `weights` (in place) against `gradient`, both of one shape.

        The same bits on any number of threads: so NumPy's eigenvectors and QR take one. More of them save
        little, and would wait for cores on which other ranks wait.
        """
        with one_thread:
            self._step(weights, gradient, rate)

    def _step(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        self.steps += 1
        if self.steps == 1:
            self._observe(gradient)
            for group in self._groups:
                group.begin()
            return
        if self.steps % OBSERVED == 0:
            self._observe(gradient)
        self._move(weights, gradient, to_device(self._constants(rate), self.backend))
        for group in self._groups:
            group.renew(self.steps)

    def _observe(self, gradient: np.ndarray) -> None:
        """Take a gradient into the factors, where it is not zero and its squares are finite."""
        if self.backend == "cpu":
            places, _, left_at, right_at = self._layout
            share = np.array([1 - self.beta2], self.m.dtype)
            kernels.soap_observe_cpu(self.left, self.right, gradient, places, left_at, right_at, share)
            return
        for group in self._groups:
            group.observe(gradient, 1 - self.beta2)

    def _move(self, weights: np.ndarray, gradient: np.ndarray, constants: np.ndarray) -> None:
        if self.backend == "cpu":
            places, rest, left_at, right_at = self._layout
            bases = self.left_basis, self.right_basis, self.right_turned, left_at, right_at
            kernels.soap_step_cpu(weights, self.m, self.v, gradient, places, rest, *bases, constants)
            return
        xp = array_module(self.backend)
        turned, moved, has = gradient.copy(), gradient * 0, gradient != 0
        for group in self._groups:
            G = gradient[group.index]
            turned[group.index] = _turned(group.left_basis) @ G @ group.right_basis
            has[group.index] = (G != 0).any(axis=(1, 2), keepdims=True)
        before = self.m.copy(), self.v.copy()
        adam_kernels.adam_step_cuda(moved, self.m, self.v, moved[:0], turned, constants)
        for moments, kept in zip((self.m, self.v), before, strict=True):
            moments[...] = xp.where(has, moments, kept)
        for group in self._groups:
            step = group.left_basis @ moved[group.index] @ _turned(group.right_basis)
            rows = (gradient[group.index] != 0).any(axis=2, keepdims=True)
            weights[group.index] += xp.where(rows, step, 0)
        weights[self._rest] += xp.where(has, moved, 0)[self._rest]

    def _constants(self, rate: float) -> np.ndarray:
        """What the kernels take; the first step has moved nothing."""
        t = self.steps - 1
        step, root = rate / (1 - self.beta1**t), (1 - self.beta2**t) ** 0.5
        return np.array((1 - self.beta1, 1 - self.beta2, step, 1 / root, self.epsilon), self.m.dtype)

    def state(self) -> dict[str, np.ndarray | int]:
        """Everything that the next step depends on."""
        names = ("steps", "m", "v", "left", "right", "left_basis", "right_basis")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, np.ndarray | int]) -> None:
        """Continue from another's `state`; arrays may be on the host."""
        self.steps = int(state["steps"])
        for name, array in self.state().items():
            if name != "steps":
                array[...] = to_device(state[name], self.backend)
        for group in self._groups:
            group.right_turned[...] = group.right_basis


class _Group:
    """The N matrices of one shape [k, m], from number `first` on: index [N, k, m] of their numbers, and views
    of their factors and bases, [N, k, k] and [N, m, m]."""

    def __init__(
        self, first: int, index: np.ndarray, shape: tuple[int, int], at: Mapping[str, int], soap: Soap
    ):
        self.first, self.index, self.soap, self.xp = first, index, soap, array_module(soap.backend)
        for side, size in zip(("left", "right"), shape, strict=True):
            place = slice(at[side], at[side] + len(index) * size * size)
            for name in (side, f"{side}_basis"):
                setattr(self, name, getattr(soap, name)[place].reshape(-1, size, size))
        self.right_turned = _turned(soap.right_turned[place].reshape(-1, size, size))

    def observe(self, gradient: np.ndarray, share: float) -> None:
        """Take a gradient into the factors, where it is not zero and its squares are finite."""
        G = gradient[self.index]
        for factor, product in ((self.left, G @ _turned(G)), (self.right, _turned(G) @ G)):
            total = abs(product).sum(axis=(1, 2), keepdims=True)
            taken = (total > 0) & self.xp.isfinite(total)
            factor += self.xp.where(taken, share * (product - factor), 0)

    def begin(self) -> None:
        """The first bases, large eigenvalues in front: orthogonal iteration keeps them so."""
        for factor, basis in ((self.left, self.left_basis), (self.right, self.right_basis)):
            basis[...] = self.xp.linalg.eigh(factor.astype(np.float64))[1][..., ::-1]
        self.right_turned[...] = self.right_basis

    def renew(self, step: int) -> None:
        """New bases for the matrices whose turn it is."""
        turn = slice((step - self.first) % RENEWED, None, RENEWED)
        index, m = self.index[turn], self.soap.m
        if len(index):
            left = self._follow(self.left[turn], self.left_basis[turn])
            right = self._follow(self.right[turn], self.right_basis[turn])
            self.right_turned[turn] = self.right_basis[turn]
            m[index] = left @ m[index] @ _turned(right)

    def _follow(self, factor: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Move bases, in place; returns what turns coordinates in the old ones into those in the new."""
        new = self.xp.linalg.qr(factor.astype(np.float64) @ basis)[0].astype(basis.dtype)
        change = _turned(new) @ basis
        basis[...] = new
        return change


def _turned(matrices: np.ndarray) -> np.ndarray:
    return matrices.swapaxes(-1, -2)
