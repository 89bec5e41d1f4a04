"""`python -m modbridge`, the same as `modbridge`."""

import sys

from modbridge.cli import main

sys.exit(main())
