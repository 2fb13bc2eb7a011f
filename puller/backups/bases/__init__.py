"""The base of each disk of a new point, and the decision whether its bitmap is trusted."""
