"""The page of ``puller report``: one HTML file that needs nothing else."""
