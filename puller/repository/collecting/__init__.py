"""Prune's part: reachability, leases, compaction, a rebuilt index."""
