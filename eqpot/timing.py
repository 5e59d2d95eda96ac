"""How long something takes."""

import time
from collections.abc import Callable
from statistics import median

from eqpot.threads import on_threads

TIME_STEP = 0.5  # fs, of the dynamics whose speed is told


def seconds_of(action: Callable[[], None]) -> float:
    """Seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def median_time(action: Callable[[], None], seconds: float, threads: int | None = None) -> float:
    """Seconds of an action, after one that does not count: three at least, more while time is left."""
    with on_threads(threads):
        action()
        times = [seconds_of(action)]
        while len(times) < 3 or sum(times) < seconds:
            times.append(seconds_of(action))
    return median(times)


def nanoseconds_per_day(seconds: float) -> float:
    """Of dynamics with a step of TIME_STEP, each of which takes so many seconds."""
    return 86400 / seconds * TIME_STEP * 1e-6
