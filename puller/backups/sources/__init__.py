"""Where frozen disks come from: pulled, pushed, or of a domain that is shut off."""
