"""What a model is fed.

layout.py    FlatBatch, and the gathers into padded buckets
sizes.py     a few sizes that the batches of a run are filled up to; fixed.py: one of them in one place
"""
