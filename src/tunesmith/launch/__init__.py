"""The same recipe on many processes and machines, on engines that exist. Nothing here schedules.

processes.py    the processes of one machine, started together: train --procs
job.py          what is launched: a value that every engine turns into its own words
engines.py      the engines by name: what each prints, and how it is started
slurm.py        an sbatch file        kubernetes.py   an Indexed Job and its Service
skypilot.py     a task with recovery  torchrun.py     a command for each host
ray.py          Ray Train: placement, and retries from the newest checkpoint
"""
