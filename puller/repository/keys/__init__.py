"""Key slots and the key ring that they open."""
