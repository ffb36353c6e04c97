"""What benchmarks/cpu.py and benchmarks/gpu.py share.

documents.py      the rows and their tokens        limit.py           the machine's matrix-product rate
shapes.py         models of known sizes            interleave.py      rounds, ratios, peak memory in a process each
variants.py       one training step of each setup  time_to_loss.py    whole runs to a held-out loss
table.py          what is printed
"""
