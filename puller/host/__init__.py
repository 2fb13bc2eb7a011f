"""Facilities of this host: programs with time limits, private directories, passphrases for programs."""
