"""Where lines go: stdout and stderr, JSON for programs, systemd's journal, the service manager."""
