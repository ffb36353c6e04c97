"""Models: found, loaded, given adapters, saved.

find.py        a name -> a local directory that can be loaded; hub.py, gguf.py: where some come from
reach.py       whether the hub answers, and who is logged in there
load.py        weights in, model directories out; adapters.py: low-rank adapters; fingerprint.py: whose they are
grow.py        rows for added tokens
tokenizer.py   text to token ids and back, and where a document starts and ends
positions.py   how long a text a model reads, and the longest document that is prepared for it
card.py        the model card
"""
