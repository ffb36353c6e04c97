"""Text from a model.

text.py    many prompts at once, reproducibly, or one prompt piece by piece
"""
