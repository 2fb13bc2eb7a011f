"""Work that many workers share: tasks, the engines that run them, and one summary (docs/fleet.md)."""
