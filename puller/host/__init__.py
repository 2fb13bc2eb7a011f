"""What this host gives a process: programs with time limits, private folders, passphrases handed over."""
