"""The pack in which to look for a chunk: a host's cache of the index."""
