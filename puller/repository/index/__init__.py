"""In which pack to look for a chunk: what a host keeps of the index."""
