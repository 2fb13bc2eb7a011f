"""The S3 client: its settings, signatures and time limits."""
