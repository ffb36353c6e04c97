"""Watch runs of any process: what a run has written, as a live screen of a terminal or a page.

view.py     a run as it stands, read from its directory; only what is new in metrics.jsonl is read again
device.py   what the device of a run does now: GPUs through NVML, or processor and memory
chart.py    curves in characters
facts.py    its numbers, each with a name
screen.py   the screen, for one run or several
page.py     the same as a page for a browser, made of *.html.jinja, style.css and page.js; server.py serves it
"""
