"""The store in a directory, and what it needs from the file system."""
