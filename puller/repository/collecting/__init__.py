"""Prune's side: what is reachable, leases, compaction, a rebuilt index."""
