"""Text from what people have: a path becomes tables of rows.

inputs.py     files, hub data sets, standard input, Python's data -> tables; table.py: what a table is
files.py      files, folders, globs; layout.py: which of them are splits, which describe data; given.py: from Python
remote.py     s3://, gs://, hf://, https:// -> copies in the cache; archive.py: the files in a zip archive
bytes.py      compression, encodings, lines of text
csv.py sniff_csv.py json.py parquet.py text.py documents.py hub.py    one module a format
"""
