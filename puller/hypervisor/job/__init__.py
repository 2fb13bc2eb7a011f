"""Backup jobs: begin, watch, end, and what a dead run left open."""
