"""`python -m eqpot` and the script `eqpot`."""

import os
import sys


def main() -> int:
    """The command line; a signal while modules are imported ends it, with nothing to put away yet."""
    from eqpot.stops import answering

    with answering(lambda: os._exit(130), at_once=True):
        from eqpot.cli import main

        status = main()
    if status == 130:  # what was left half built is taken down as Python ends, in silence
        sys.unraisablehook = lambda _: None
    return status


if __name__ == "__main__":
    sys.exit(main())
