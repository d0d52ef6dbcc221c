"""What do clients get while the database is away, and how soon is it used again? `python -m bench.outage`."""
