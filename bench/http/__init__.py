"""What does a request cost, with everything on? `python -m bench.http` finds out."""
