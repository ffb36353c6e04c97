"""What the data really is: numbered findings, each blocks, warns or fine, with the number and what to set.

stage.py      the stage: prepared data -> AuditReport
rows.py text.py tokens.py    checks of rows, of what stands in the text, of the token arrays
findings.py   what a check says; examples.py: documents as the model sees them
language.py   a guess at the language of a text
"""
