"""Files and block devices of this host, and who uses them."""
