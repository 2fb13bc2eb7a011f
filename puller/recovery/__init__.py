"""From a point back to disks: restore and its targets."""
