"""All that speaks NBD."""
