"""What would break a backup: one module for each of host, domain, disk, scratch and store."""
