"""``python -m support.warm_cache``: cache what tests without a network need: the image, and programs for containers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pymachine.driver.contract import ImageRequest
from pymachine.image import provide
from pymachine.system.stream_reporter import StreamReporter
from support import packages
from support.runner import cache_folder


def main() -> None:
    """Build or download whatever is missing."""
    os.environ.setdefault("PYMACHINE_CACHE", str(cache_folder()))
    with TemporaryDirectory() as store:
        provide.find_or_build(ImageRequest(), store=Path(store), reporter=StreamReporter(sys.stdout))
    for name in sorted(packages.EXTRA):
        packages.archive(name)


if __name__ == "__main__":
    main()
