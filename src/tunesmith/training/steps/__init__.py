"""What one optimizer step is made of.

batches.py    documents -> steps -> flat batches
stepper.py    forward, backward, clipping and update, operation by operation
graphs.py     the same started as a whole, recorded by capture.py
late.py       numbers of the device, read when they are there; numbers.py: those that end a run at once
"""
