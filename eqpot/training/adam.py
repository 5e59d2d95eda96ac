"""Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1) and the moving average of the weights."""

import numpy as np

from eqpot.backend import to_device
from eqpot.kernels import adam as kernels


def largest_gradient(dtype: np.dtype) -> float:
    """With larger numbers the moments, squares of gradients or of sums of many, leave the range of dtype."""
    return float(np.sqrt(np.finfo(dtype).max)) / 1e4


class Adam:
    """Adam on one flat vector, in place; AMSGrad (Reddi et al., arXiv:1904.09237) as an option.

    m, v: running means of the gradient g and of g^2, both starting at zero, hence the corrections 1 - beta^t:

        w <- w - rate · (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    AMSGrad takes the largest v so far in the place of v, so that a step length never grows again.
    All arithmetic is elementwise in the dtype of the weights: the same inputs give the same bits. With
    backend "cuda" the weights and everything here are on the GPU.
    """

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, weights: np.ndarray, amsgrad: bool = False, backend: str = "cpu"):
        self.steps = 0
        self.backend = backend
        self.m = weights * 0
        self.v = weights * 0
        self.v_max = weights * 0 if amsgrad else None

    def step(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Move `weights` (in place) against `gradient`, both of one shape."""
        self.apply(weights, gradient, to_device(self.advance(rate), self.backend))

    def advance(self, rate: float) -> np.ndarray:
        """Count a step; the numbers that it needs."""
        self.steps += 1
        step, root = rate / (1 - self.beta1**self.steps), (1 - self.beta2**self.steps) ** 0.5
        return np.array((1 - self.beta1, 1 - self.beta2, step, 1 / root, self.epsilon), self.m.dtype)

    def apply(self, weights: np.ndarray, gradient: np.ndarray, constants: np.ndarray) -> None:
        """Make the step that was counted, with its numbers where the weights are."""
        v_max = weights[:0] if self.v_max is None else self.v_max
        run = kernels.adam_step_cuda if self.backend == "cuda" else kernels.adam_step_cpu
        run(weights, self.m, self.v, v_max, gradient, constants)

    def state(self) -> dict[str, np.ndarray | int]:
        """Everything that the next step depends on."""
        state = {"steps": self.steps, "m": self.m, "v": self.v}
        return state if self.v_max is None else {**state, "v_max": self.v_max}

    def restore(self, state: dict[str, np.ndarray | int]) -> None:
        """Continue from another Adam's `state`; arrays may be on the host."""
        self.steps = int(state["steps"])
        for name in ("m", "v") if self.v_max is None else ("m", "v", "v_max"):
            getattr(self, name)[:] = to_device(state[name], self.backend)


class MovingAverage:
    """Exponential moving average of the weights, which validates better than the weights themselves.

    The decay starts small, min(decay, (1 + t) / (10 + t)), so that the random start is soon forgotten.
    """

    def __init__(self, weights: np.ndarray, decay: float, backend: str = "cpu"):
        self.decay, self.backend = decay, backend
        self.steps = 0
        self.weights = weights.copy()

    def update(self, weights: np.ndarray) -> None:
        """Take in the weights after a step."""
        self.apply(weights, to_device(self.advance(), self.backend))

    def advance(self) -> np.ndarray:
        """Count a step; the share [1] that the new weights get in the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.decay else 0.0
        return np.array([1 - decay], self.weights.dtype)

    def apply(self, weights: np.ndarray, share: np.ndarray) -> None:
        """Take in the weights by the share that was counted, now where the weights are."""
        run = kernels.average_step_cuda if self.backend == "cuda" else kernels.average_step_cpu
        run(self.weights, weights, share)
