"""The disks of a domain: their images, storage nodes, volumes and encryption."""
