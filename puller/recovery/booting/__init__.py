"""Machines booted from a restore point, and instant recovery (docs/instant-recovery.md).

What other rooms use::

    from puller.recovery.booting import boot, discard, pulling

    made = boot.boot(repository, point, boot.BootRequest(connect, name="web1-test"), observer)
    made.record         # Booted: name, uuid, disks, storage, ...
    made.seconds        # until the guest began to run
    discard.discard(made.record, host, repository, observer)

``boot`` returns once the guest runs, or raises and has removed all that it made. The machine outlives the
process. Its serial ports at files and sockets of the host are terminals, as in any copy.
"""
