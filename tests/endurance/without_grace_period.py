"""Run pymachine without a grace period for temporary files: ``python without_grace_period.py WORDS...``.

pymachine removes temporary files that a kill left once they are too old to be in use. Waiting for that would take most
of the campaign's time.
"""

from __future__ import annotations

import sys

from pymachine.__main__ import main
from pymachine.driver.kit import transactions

if __name__ == "__main__":
    transactions._TEMPORARY_SECONDS = -1.0
    sys.exit(main())
