"""Text from a model.

text.py      many prompts at once, reproducibly, or one prompt piece by piece
decode.py    on a GPU: steps recorded once for a batch and replayed for each token
asking.py    how texts are asked for, whatever engine writes; request.py: what it is asked and gives back
engine.py    requests that come and go, written together by lanes; llama_cpp.py: the same for a GGUF file, by llama.cpp
lane.py      one model and the rows that it writes; memory.py: their keys and values; spelling.py: tokens to text
voices.py    tuned and base, loaded to write
prompts.py   prompts from a file; batch.py: texts to a file; conversation.py: a talk, turn by turn
"""
