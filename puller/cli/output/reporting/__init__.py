"""Progress while a command runs: bars on a terminal, or lines."""
