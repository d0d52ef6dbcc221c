"""What is a pool worth to those who use the service? `python -m bench.strategies` finds out."""
