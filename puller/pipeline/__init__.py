"""Bytes in motion: buffers, lanes, crews."""
