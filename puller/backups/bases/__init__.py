"""What each disk of a new point is taken from, and whether its bitmap is believed."""
