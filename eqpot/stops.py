"""Signals that ask a command to stop: Ctrl-C, a batch queue's SIGTERM, a terminal that is closed."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
AGAIN = 0.02  # s
LOST = 20.0  # s; code in C may swallow an exception without a word: what has not ended then is asked again

# Where an exception would be lost, or told as one of another kind: modules that are being imported, whose
# initialisation in C swallows it, and functions that LLVM calls.
DEAF = ("<frozen importlib._bootstrap>", os.path.join("llvmlite", "binding", "executionengine.py"))


class held:
    """A stop that is asked for inside waits until the end; `asked` tells that one does.

    Where what was begun must be finished, such as a message to others who wait for it.
    """

    _inside: list["held"] = []
    _answer: Callable[[], object] | None = None

    @property
    def asked(self) -> bool:
        return held._answer is not None

    def __enter__(self) -> Self:
        self._inside.append(self)
        return self

    def __exit__(self, *_) -> None:
        self._inside.pop()
        if not self._inside and held._answer is not None:
            answer, held._answer = held._answer, None
            answer()


def interrupt() -> None:
    """What a command that has nothing better to do ends by."""
    raise KeyboardInterrupt


@contextmanager
def answering(answer: Callable[[], object], at_once: bool = False) -> Iterator[None]:
    """`answer` is called at such a signal inside, unless the signal is ignored, as by nohup.

    It is called where an exception comes through, and again where one has been lost, in a callback for
    instance; with `at_once` anywhere. Outside of the main thread, which alone may say what signals do,
    nothing changes. What an answer by an exception leaves half built may fail once more when it is taken
    down: that is not told.
    """
    owner, outside, before = os.getpid(), sys._getframe(2), {}  # 1 is contextlib's
    unraisable, raised = sys.unraisablehook, False

    def called(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a child by fork ends as if it had no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not at_once and _is_deaf(frame, outside):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        elif held._inside:
            held._answer = now
        else:
            now()

    def now() -> None:
        nonlocal raised
        raised = True
        try:
            answer()
        except BaseException:
            if not at_once:
                signal.setitimer(signal.ITIMER_REAL, LOST)
            raise
        raised = False

    def lost(error) -> None:
        if issubclass(error.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        elif not raised:
            unraisable(error)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, called)
        if not at_once:
            before[signal.SIGALRM] = signal.signal(signal.SIGALRM, called)
            sys.unraisablehook = lost
    try:
        yield
    finally:
        if signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _is_deaf(frame: FrameType | None, outside: FrameType) -> bool:
    while frame is not None and frame is not outside:
        if frame.f_code.co_filename.endswith(DEAF):
            return True
        frame = frame.f_back
    return False
