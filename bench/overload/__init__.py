"""What is served when ten times too many ask? `python -m bench.overload` finds out."""
