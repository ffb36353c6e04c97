"""A step that is run without values, and what it would take.

step.py        the step itself, as training makes it
trace.py       its operators and what they allocate; inside.py: what kernels take for themselves
simulate.py    a GPU's kernels without a GPU
splice.py      many layers of one kind traced as a few
launches.py    the kernels that it starts
"""
