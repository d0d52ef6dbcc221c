"""What does a start cost, in processor time, until a probe is answered?"""
