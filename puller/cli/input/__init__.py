"""Input of a user: options, quantities, secrets, the repository."""
