"""A first recipe: written from a look at the data, from another tool's configuration, or from nothing.

stage.py     the stage: looks, audits, writes the file
look.py      what the rows of the data are, what was chosen of them and why, what else could be meant
suggest.py   a model that fits this machine
convert.py   another tool's configuration as settings of a recipe, and what has no counterpart; sources.py: its data
text.py      the recipe as a file with comments
"""
