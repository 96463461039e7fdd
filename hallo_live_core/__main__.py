"""`python -m hallo_live_core` is the `hallo-live` command."""

import sys

from .cli import main

sys.exit(main())
