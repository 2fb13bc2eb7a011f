"""Removal of the data that no restore point reaches, while backups run."""
