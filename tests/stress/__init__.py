"""Everything at once, at random, for as long as one likes: `python -m tests.stress --help`."""
