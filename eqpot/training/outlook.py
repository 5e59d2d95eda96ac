"""What a fit can be expected to reach, while it runs, and what has limited it, at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from eqpot.errors import UserError
from eqpot.words import duration

FIRST = 0.1  # part of a run after which its end is estimated
LEAST = 8  # epochs that a power of them is fitted to
BEGUN = 0.3  # of the forces themselves: an error above that, of a network hardly trained, tells nothing
# Error at the end of the cooldown over that before it; how much of the slope is left on the way there; how
# far a run may be from that. Of the fits in bench/accuracy.md.
COOLED, BENT, SPREAD = 0.71, 0.8, 1.25
LEARNED, ALIKE = 0.6, 0.85  # of the error on new frames: what is on training frames is little; about as large
WORTH = 0.9  # what is left of the error after twice the time, where that is worth it


@dataclass(frozen=True)
class Law:
    """error = factor x frames^-exponent, by least squares of the logarithms; calling it gives the error."""

    factor: float  # in the unit of the errors
    exponent: float
    spread: float  # standard error of the exponent; NaN of two points

    @classmethod
    def of(cls, frames: Sequence[int], errors: Sequence[float]) -> Self:
        """UserError at an error that is no number above 0."""
        if not all(math.isfinite(error) and error > 0 for error in errors):
            raise UserError(f"errors: expected numbers above 0, found {min(errors):g}")
        x, y = np.log(frames), np.log(errors)
        slope, height = np.polyfit(x, y, 1)
        rest = y - slope * x - height
        spread = (
            math.sqrt((rest @ rest) / (len(x) - 2) / np.sum((x - x.mean()) ** 2)) if len(x) > 2 else math.nan
        )
        return cls(math.exp(height), -float(slope), spread)

    def __call__(self, frames: float) -> float:
        return self.factor * frames**-self.exponent


def estimate(errors: Sequence[float], done: float, cooldown: float, seconds: float, forces: float) -> str:
    """What to expect of a fit from its errors so far, of which a part is done that took so long; empty before
    `FIRST`, once the rate falls, and where errors are still about as large as the forces (RMS)."""
    if not FIRST <= done < 1 - cooldown or errors[-1] > BEGUN * forces:
        return ""
    expected = final_error(errors, len(errors) / done, cooldown)
    if expected is None:
        return ""
    low, high = (1000 * error for error in expected)
    return (
        f"estimate: F of {low:.3g} to {high:.3g} meV/Å at the end; twice as many training frames, each "
        f"seen as often, would take {duration(2 * seconds / done)}"
    )


def final_error(errors: Sequence[float], epochs: float, cooldown: float) -> tuple[float, float] | None:
    """Limits between which the last of `epochs` errors is expected, from those so far, all at the full rate.

    Before the cooldown, a fraction of the epochs, errors fall like a power of the epoch, and later on like a
    lower one; it is fitted to the later half of those so far. None where they are too few.
    """
    found = np.asarray(errors, float)
    if len(found) < LEAST or not (found > 0).all():
        return None
    x, y = np.log(np.arange(1, len(found) + 1)), np.log(found)
    last, slope = slice(-max(3, len(found) // 10), None), _slope(found)
    before = math.log(max(epochs * (1 - cooldown), len(found)))
    middle = math.exp(y[last].mean() + BENT * slope * (before - x[last].mean()))
    middle *= COOLED if cooldown else 1.0
    return middle / SPREAD, middle * SPREAD


def limit(training: float, validation: float, errors: Sequence[float] = (), tuned: bool = False) -> str:
    """What limits a fit with these errors on frames that it has and has not seen, and what to change.

    errors: on the latter after each epoch at the full rate; where they still fell, time has limited it, too.
    tuned: whether it has the size of a parent.
    """
    part, found = training / validation if validation > 0 else 1.0, np.asarray(errors, float)
    falling = len(found) >= LEAST and (found > 0).all() and 2 ** (BENT * _slope(found)) < WORTH
    if part > ALIKE:
        larger = "begin with a larger model" if tuned else "with more model.features"
        return f"time or size limits this fit: train it longer, or {larger}"
    if part < LEARNED and not falling:
        return "the frames limit this fit more than its time: more of them help most"
    return "time and frames limit this fit: both a longer one and more frames help"


def _slope(errors: np.ndarray) -> float:
    """Exponent of the power of the epoch that the later half of the errors falls like; 0 where it rises."""
    x, y, later = np.log(np.arange(1, len(errors) + 1)), np.log(errors), slice(len(errors) // 2, None)
    return min(np.polyfit(x[later], y[later], 1)[0], 0.0)
