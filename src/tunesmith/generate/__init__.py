"""Text from a model.

text.py     many prompts at once, reproducibly, or one prompt piece by piece
decode.py   on a GPU: steps recorded once for a batch and replayed for each token
"""
