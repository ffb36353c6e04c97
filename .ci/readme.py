"""Make a README stand alone, as a package index shows it.

    python .ci/readme.py README.md TAG [ADDRESS]

Links and pictures of the repository get its ADDRESS (https://...), at TAG; without one they become their words. Nothing
on the page then leads nowhere.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def stand_alone(text: str, root: Path, tag: str, address: str | None) -> str:
    """`text` without relative links. root: what they are relative to."""

    def absolute(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if address is None:
            return str(words)
        kind = "raw" if picture else "tree" if (root / target).is_dir() else "blob"
        return f"{picture}[{words}]({address}/{kind}/{tag}/{target})"

    return LINK.sub(absolute, text)


def main(arguments: list[str]) -> None:
    """Change the file in place."""
    path, tag, *address = arguments
    readme = Path(path)
    text = stand_alone(readme.read_text(encoding="utf-8"), readme.parent, tag, next(filter(None, address), None))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
