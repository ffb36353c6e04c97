"""Text from a model.

text.py      many prompts at once, reproducibly, or one prompt piece by piece
engine.py    requests that come and go, written together by lanes; request.py: what it is asked and gives back
lane.py      one model and the rows that it writes; memory.py: their keys and values; spelling.py: tokens to text
voices.py    tuned and base, loaded to write
"""
