"""The held-out loss against the number of rows: a few shares trained, the rest forecast with its interval.

stage.py       trains the shares that are not trained yet, and forecasts
asked.py       which shares, and whether they make sense
power_law.py   the curve through a base and a few points, and how far it may be off
forecast.py    what more rows or a bigger model would bring; verdict.py: the same in sentences
values.py      curve.json
outcome.py     curve.json and curve.html; table.py: the same in a terminal
"""
