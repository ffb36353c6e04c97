"""A rendered row: pieces of text, (text, flag), some of them learned.

CONTEXT is read but not learned, TARGET is learned, MARK is learned but is no text of the user's (an end-of-turn token),
so it counts no bytes.
"""

CONTEXT, TARGET, MARK = 0, 1, 3
Pieces = list[tuple[str, int]]
