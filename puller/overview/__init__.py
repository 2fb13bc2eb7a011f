"""The state of all machines, from the repositories alone: which are late, and which are proven."""
