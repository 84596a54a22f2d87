"""Run pymachine as a minute later: ``python later.py WORDS...``.

Temporary files that a kill left are removed when they are too old to be still written. Waiting for that would take most
of the campaign's time.
"""

from __future__ import annotations

import sys

from pymachine.__main__ import main
from pymachine.driver.kit import transactions

if __name__ == "__main__":
    transactions._TEMPORARY_SECONDS = -1.0
    sys.exit(main())
