"""Search over recipe values: many short runs of one recipe, compared by held-out loss.

stage.py     the sweep: goes on where it stopped, until its trials or its time are spent
space.py     what is searched: --over, or a default space around what the plan would choose
study.py     the trials as optuna keeps them, in FOLDER/study.db
begun.py     what a folder was begun with
trial.py     one trial: a run of its own, ended early where it is behind at equal tokens; marks.py: where that is
workers.py   trials at a time, each on a GPU of its own
lr_find.py   a learning rate from one short run whose rate grows
outcome.py   best.yaml, trials.json, sweep.html; table.py: the same in a terminal
curve/       the loss against the number of rows, from a few shares of them
"""
