"""Which rows are trained on and which are held out.

assign.py            train, eval or test, by content and seed
near_duplicates.py   rows that are almost the same; beginnings.py: what many rows begin with
"""
