"""Signals that ask a command to stop: Ctrl-C, a batch queue's SIGTERM, a terminal that is closed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def interrupt() -> None:
    """What a command that has nothing better to do ends by."""
    raise KeyboardInterrupt


@contextmanager
def answering(answer: Callable[[], object]) -> Iterator[None]:
    """`answer` is called at such a signal inside, unless the signal is ignored, as by nohup.

    Outside of the main thread, which alone may say what signals do, nothing changes.
    """
    owner, before = os.getpid(), {}

    def called(number: int, _) -> None:
        if os.getpid() == owner:
            answer()
        else:  # a child by fork ends as if it had no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, called)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
