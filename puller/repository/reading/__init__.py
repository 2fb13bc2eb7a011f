"""Reading of chunks, maps and disk images from the store."""
