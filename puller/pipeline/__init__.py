"""Data transfer between threads: buffers, lanes, crews."""
