"""Limits of what a host keeps of an index."""

from __future__ import annotations

from puller.units import MIB

BUDGET = 256 * MIB
"""Default of the bytes that a host keeps of the index of one repository."""

LEAST_BUDGET = MIB
