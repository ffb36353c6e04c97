"""A run or model over HTTP: OpenAI's API, and a page that shows base and tuned side by side.

start.py        loads, listens, drains; service.py: what all requests share: models, defaults, limits, counts
app.py          the routes; schema.py: what requests and answers hold; answers.py: texts as answers, whole or streamed
patience.py     limits on time and on what is open; metrics.py: what /metrics tells
playground.py   what the page asks for; static/: the page; rows.py: training rows beside a text; votes.py: blind test
engines.py      other engines, started on the same model
"""
