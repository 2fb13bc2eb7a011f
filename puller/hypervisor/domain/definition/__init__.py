"""Definitions of domains that puller makes: restored ones, booted ones and those of drills."""
