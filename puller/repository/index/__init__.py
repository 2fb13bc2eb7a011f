"""Which pack holds a chunk: the local cache of the index."""
