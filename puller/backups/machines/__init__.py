"""The virtual machine of a backup, whoever manages it: libvirt, or nobody (a QEMU by itself)."""
