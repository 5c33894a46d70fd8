"""Answers that are tables: rows that pandas and polars read as rows, and lists of them that show themselves. Imports no torch.

pandas.DataFrame(zoo.find(max_params=5e6))
polars.DataFrame(zoo.profile("resnet50").blocks)
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import msgspec

R = TypeVar("R")
P = ParamSpec("P")
SHOWN = 3
"""Names that a short form tells."""


class Row(msgspec.Struct, frozen=True):
    """A record that is a Mapping, too: `row["name"]` is `row.name`, with records inside it as plain dicts.

    All fields are there, defaults included, so that every row of a table has the same columns.
    """

    def to_dict(self) -> dict[str, Any]:
        return {name: self[name] for name in self}

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return _plain(getattr(self, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.__struct_fields__)

    def __len__(self) -> int:
        return len(self.__struct_fields__)

    __contains__, keys, items, values, get = (
        Mapping.__contains__,
        Mapping.keys,
        Mapping.items,
        Mapping.values,
        Mapping.get,
    )


Mapping.register(Row)


class Table(list[R]):
    """A list of rows that a notebook shows as a table, and whose short form tells how many there are."""

    def to_dicts(self) -> list[dict[str, Any]]:
        return [_record(row) for row in self]

    def __repr__(self) -> str:
        names = [str(next(iter(_record(row).values()), "")) for row in self[:SHOWN]]
        more = f", and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        return f"<{len(self)} rows: {', '.join(names)}{more}>" if names else "<no rows>"

    def _repr_html_(self) -> str:
        return html_table(self.to_dicts())


def tabled(answer: Callable[P, list[R]]) -> Callable[P, Table[R]]:
    """A function whose list of rows becomes a Table."""

    @functools.wraps(answer)
    def made(*args: P.args, **kwargs: P.kwargs) -> Table[R]:
        return Table(answer(*args, **kwargs))

    return made


def flat(names: Iterable[str | Iterable[str]]) -> tuple[str, ...]:
    """Names that were given one by one, in lists, or both."""
    return tuple(name for item in names for name in ([item] if isinstance(item, str) else item))


def html_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records under their names; columns in which nothing stands are left out, and every text is escaped."""
    columns = [
        name
        for name in (records[0] if records else ())
        if any(record[name] not in (None, "", [], {}) for record in records)
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(_cell(record[name]) for name in columns) + "</tr>" for record in records)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"<td>{'' if value is None else value}</td>"
    if isinstance(value, (int, float)):
        text = f"{value:,}" if isinstance(value, int) else f"{value:g}"
        return f'<td style="text-align: right">{text}</td>'
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items() if inner not in (None, ""))
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return f"<td>{html.escape(str(value))}</td>"


def _record(row: Any) -> dict[str, Any]:
    return row.to_dict() if isinstance(row, Row) else row._asdict()


def _plain(value: Any) -> Any:
    """The value with the records inside it as dicts."""
    if isinstance(value, Row):
        return value.to_dict()
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
