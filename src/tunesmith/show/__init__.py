"""All that is printed in a terminal.

doctor.py plan.py audit.py runs.py summary.py export.py    an examination, a plan, an audit, runs, what came of a run
counts.py      the same run on 1, 2, 4, ... GPUs
verdicts.py    findings, whoever made them; following.py: what can be done with a run; follow.py: its log as it grows
doing.py       what is being done, while it lasts; progress.py: a run while it goes on; notebook.py: both in a notebook
talk.py        a conversation with a model; texts.py: texts as they are written; count.py: how many of many are done
"""
