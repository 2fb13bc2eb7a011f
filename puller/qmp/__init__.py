"""QEMU without libvirt: all that speaks QMP. See docs/qmp.md."""
