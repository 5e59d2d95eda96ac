"""`python -m eqpot`."""

import sys

from eqpot.cli import main

sys.exit(main())
