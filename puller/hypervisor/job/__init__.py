"""Backup jobs: begin, watch and end them, and end those that dead runs left open."""
