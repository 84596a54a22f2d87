"""Run pymachine as a minute later: ``python later.py WORDS...``.

Temporary files that a kill left are removed when they are too old to be still written. Waiting for that would take most
of the campaign's time.
"""

from __future__ import annotations

import sys

from pymachine import unfinished
from pymachine.__main__ import main

if __name__ == "__main__":
    unfinished._TEMPORARY_SECONDS = -1.0
    sys.exit(main())
