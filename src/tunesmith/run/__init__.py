"""A run on disk. Nothing here imports torch.

directory.py   where everything lies, its writers and readers; artefacts/: what each file holds, as values
document.py    docs/run-directory.md, made from them
recorder.py    what a run writes while it goes on; observer.py: whom it tells
standing.py    where a run stands, seen from any process; detach.py: runs without a terminal
notify.py      a word when it ends
lock.py        one writer a run; signals.py: a stop that loses nothing
table.py       several runs side by side; spikes.py: losses that stand out
places.py      full paths of this machine, which no artefact but the recipe holds
"""
