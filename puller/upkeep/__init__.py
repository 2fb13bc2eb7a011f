"""What keeps a repository small and sound: retention, prune, check, repair, keys, statistics."""
