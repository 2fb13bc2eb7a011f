"""What a user gets: lines, tables, JSON documents, metrics, messages to systemd."""
