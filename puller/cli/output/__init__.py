"""Output for a user: lines, tables, JSON documents, metrics, messages to systemd."""
