"""What one way to train takes on one device: memory, time and disk, computed from a config without weights.

forecaster.py   a device, a choice, and the memory that it takes; run.py: time and disk of a whole run
tracing/        one exact optimizer step on fake tensors, allocation by allocation
allocator.py memory.py    what a GPU reserves for it; workspaces.py: what its libraries take beside tensors
roofline.py time.py       how long it takes; exchange.py: between several processes
host.py         to start it on a GPU, however little there is to do
disk.py shapes.py workload.py    room on disk; models and data in numbers
"""
