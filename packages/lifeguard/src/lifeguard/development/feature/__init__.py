"""`make feature NAME=invoices`: a feature with a table, in the files that a feature has, tested and mounted.

But for the command line it needs the standard library only: the starter makes its example with it.
"""
