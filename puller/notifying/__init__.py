"""Telling people how a run of a job ended: by mail, webhook, or a ping."""
