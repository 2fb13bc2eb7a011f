"""What happened to all machines, read out of the repositories alone: who is late, and who is proven."""
