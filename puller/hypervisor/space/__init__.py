"""Scratch and staging: room for them, and a watch over it."""
