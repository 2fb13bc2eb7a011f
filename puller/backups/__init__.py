"""The transaction that takes a point: sources of frozen disks, bases, transfer, commit, reconciliation."""
