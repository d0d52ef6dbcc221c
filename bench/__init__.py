"""Questions about this service, asked side by side with its peers.

Each folder is one question, run with `python -m bench.<folder>`; answers go to `bench/results`.
"""
