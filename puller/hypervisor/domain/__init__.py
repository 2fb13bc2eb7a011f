"""Domains, their disks and images, firmware state and checkpoints."""
