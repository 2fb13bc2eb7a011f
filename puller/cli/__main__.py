"""``python -m puller.cli``: the same as ``puller``."""

from puller.cli import main

main()
