"""Does a read with the token of a write ever miss that write, and what does that cost?"""
