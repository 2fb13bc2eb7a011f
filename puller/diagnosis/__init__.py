"""Checks for problems of backups: one module each for host, domain, disk, scratch, repository and store."""
