"""What every reader gives: a table of rows, some of which may be unreadable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from tunesmith.errors import DataError

SAMPLE_ROWS = 200


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read. problem: cause and fix, without the place."""

    problem: str


Rows = Iterator[tuple[int, "Mapping[str, object] | BadRow"]]


@dataclass(frozen=True)
class About:
    """What was found out on opening a file. notes: sentences for a person; choosing columns adds some.

    warnings: sentences of what may be wrong.
    """

    encoding: str | None = None
    delimiter: str | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Table:
    """One file, or one split of a data set, as rows.

    name: as messages show it. first_row: the number by which row 0 is called. kind: the format that was read.
    columns: the columns known before reading; sample: the first readable rows.
    read: starts reading from the first row; given column names, other columns may be left out.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    read: Callable[[Collection[str] | None], Rows]
    first_row: int = 1
    plain_text: bool = False
    about: About = field(default_factory=About)
    sample: list[Mapping[str, object]] = field(default_factory=list)

    def row_name(self, row: int) -> str:
        """`shows.csv:17`."""
        return f"{self.name}:{row + self.first_row}"

    def take_sample(self) -> None:
        """Read the first rows, for choosing columns; unreadable ones are left to the reading proper.

        Raises DataError when the columns are known from the rows alone and no row can be read.
        """
        rows = list(islice(self.read(None), SAMPLE_ROWS))
        self.sample = [values for _, values in rows if not isinstance(values, BadRow)]
        if not self.columns and not self.sample:
            for row, problem in rows:
                raise DataError(f"{self.row_name(row)}: {getattr(problem, 'problem', '')}")
            raise DataError(f"{self.name}: holds no rows. Expected at least two rows of text.")
        if not self.columns:
            self.columns = tuple(dict.fromkeys(name for values in self.sample for name in values))
        self._warn_of_line_ends()

    def _warn_of_line_ends(self) -> None:
        """Line ends inside a value of JSON or Parquet are taken as they are meant: then at least it is said."""
        with_returns = dict.fromkeys(
            name for values in self.sample for name, value in values.items() if _has_windows_line_ends(value)
        )
        if with_returns:
            self.about.warnings.append(
                f"{self.name}: text in {list_columns(with_returns, 4)} holds Windows line ends (\\r\\n), which are "
                "learned as they are written; write \\n if that is not meant"
            )


def list_columns(columns: Iterable[str], limit: int = 20) -> str:
    """Column names for a message."""
    names = list(columns)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"


def _has_windows_line_ends(value: object) -> bool:
    if isinstance(value, str):
        return "\r\n" in value
    if isinstance(value, Mapping):
        return any(map(_has_windows_line_ends, value.values()))
    return isinstance(value, list) and any(map(_has_windows_line_ends, value))
