"""Where restored disks are written: files, devices and NBD exports."""
