"""The endurance campaign: kills, full disks, leaks, hostile input. See `docs/explanation/reliability.md`."""
