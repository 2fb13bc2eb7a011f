"""Notifications at the end of a job's run: mail, webhook and ping."""
