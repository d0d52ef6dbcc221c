"""The checks of `doctor`, each a function that says what is, how bad that is, and what to do."""
