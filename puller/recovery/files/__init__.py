"""Files of a guest out of a point, through libguestfs: only its appliance meets the file systems."""
