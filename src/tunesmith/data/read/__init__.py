"""Text from what people have: a path becomes tables of rows.

inputs.py     files, folders, globs, hub data sets, standard input -> tables; table.py: what a table is
remote.py     s3://, gs://, hf://, https:// -> copies in the cache; archive.py: the files in a zip archive
bytes.py      compression, encodings, lines of text
csv.py sniff_csv.py json.py parquet.py text.py documents.py hub.py    one module a format
"""
