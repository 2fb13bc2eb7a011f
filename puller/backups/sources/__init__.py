"""Sources of frozen disks: pulled, pushed, or the images of a domain that is shut off."""
