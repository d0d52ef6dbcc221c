"""How does cost grow? `python -m bench.scale` finds out."""
