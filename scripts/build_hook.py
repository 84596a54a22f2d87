"""Hatchling's build hook for the wheel: add the manual pages and completion files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedData(BuildHookInterface):
    """Generate the files by scripts/shared_data.py in another process, and install them below ``share``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the generated files to the wheel. An editable installation has none: they would become stale."""
        if version == "editable":
            return
        self.folder = tempfile.TemporaryDirectory(prefix="pymachine-build-")
        share = Path(self.folder.name) / "share"
        self._generate(share, Path(self.folder.name) / "pymachine.dist-info")
        build_data["shared_data"][str(share)] = "share"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the generated files."""
        if version != "editable":
            self.folder.cleanup()

    def _generate(self, share: Path, metadata: Path) -> None:
        """Run the generator on this source tree, with its drivers registered as in an installed package."""
        metadata.mkdir()
        groups = self.metadata.core.entry_points
        (metadata / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
                for group, entries in groups.items()
            )
        )
        root = Path(self.root)
        path = os.pathsep.join(str(folder) for folder in (metadata.parent, root / "src", root / "drivers"))
        subprocess.run(
            [sys.executable, root / "scripts" / "shared_data.py", share],
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
        )
