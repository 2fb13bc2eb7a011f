"""Everything that talks to libvirt."""
