"""What a user gives: options, quantities, secrets, the repository."""
