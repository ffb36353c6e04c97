"""What moves the weights, where torch's own AdamW does not do.

rounding.py       AdamW for weights held in bfloat16; eight_bit.py: with moments of 8 bits
adafactor.py      a number a row and a column instead of moments; muon.py: one moment, made orthogonal
in_backward.py    weights that move while backward runs
"""
