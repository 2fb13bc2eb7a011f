"""All that speaks libvirt."""
