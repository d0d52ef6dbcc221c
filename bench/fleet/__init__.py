"""What a server sees of a thousand processes, and how soon all of them are served."""
