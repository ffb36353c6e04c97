"""All that is printed in a terminal.

plan.py data.py audit.py summary.py    a plan, the preparing of data, an audit, what came of a run
progress.py    a run while it goes on
"""
