"""The standing campaign: kills, full disks, leaks, hostile input. See `docs/explanation/reliability.md`."""
