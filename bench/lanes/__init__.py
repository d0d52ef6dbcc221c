"""What do the others notice of one who takes too much? `python -m bench.lanes` finds out."""
