"""One run that writes: chunks into packs, maps, the commit."""
