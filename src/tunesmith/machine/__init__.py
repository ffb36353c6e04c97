"""What this machine has, and GPUs by name.

detect.py   devices, memory, cores; gpus.py: GPUs and their rates by name; prices.py: what an hour of them costs
interconnect.py    what joins GPUs, and how long several take to exchange tensors
driver.py   what the NVIDIA driver tells, without CUDA
heap.py     memory of the process: huge pages, and what a phase leaves behind given back
threads.py  whether threads spin or sleep while they wait, by the load
memory.py   memory of the device: its peak, and its end; energy.py: what its driver counted
"""
