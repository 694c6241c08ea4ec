"""HTML built by functions: every text is escaped unless it was built here, every number is printed one way."""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd

from workflow.frames import Table
from workflow.report.frames import csv_text

VOID = ("meta", "br", "hr")
MINUS = "−"
NONE = "–"
LONG_TEXT = 48
"""Cells with longer texts break into lines."""


class Html(str):
    """Text that already is HTML; every other str is escaped when it is put into an element."""

    __slots__ = ()


class Column(NamedTuple):
    """One column of a table."""

    name: str
    """Column of the data frame."""
    label: str
    """Heading."""
    show: Callable[[Any], str] | None = None
    """How a value is printed; None: as text."""


def escaped(text: Any) -> Html:
    """The text as HTML; what is HTML already stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element. A trailing underscore of an attribute's name is dropped, others become hyphens; None and False leave it out."""
    shown = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    inner = "".join(escaped(child) for child in children)
    return Html(f"<{name}{shown}>" if name in VOID else f"<{name}{shown}>{inner}</{name}>")


def joined(parts: Iterable[Any], between: str = "\n") -> Html:
    """Parts in a row, each escaped unless it is HTML."""
    return Html(between.join(escaped(part) for part in parts))


def _attribute(key: str, value: Any) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def slug(*parts: Any) -> str:
    """A name for anchors and files: letters, digits, dots and hyphens."""
    return "-".join("".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in str(part)) for part in parts)


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN or infinity."""
    return value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value))


def plain(value: Any) -> str:
    """Text; whole numbers with thin blanks between thousands."""
    if missing(value):
        return NONE
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) and not isinstance(value, bool) else str(value)


def number(value: Any) -> str:
    """Four significant digits; a real minus sign."""
    if missing(value):
        return NONE
    value = float(value)
    digits = 0 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:.3e}" if value and not 1e-5 <= abs(value) < 1e7 else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def signed(value: Any) -> str:
    """A difference: always with its sign."""
    return NONE if missing(value) else ("+" if float(value) > 0 else "") + number(value)


def tenths(value: Any) -> str:
    """One digit behind the point, thin blanks between thousands: seconds, GiB."""
    return NONE if missing(value) else f"{float(value):,.1f}".replace(",", "\u202f").replace("-", MINUS)


def percent(value: Any) -> str:
    """A share as per cent with one digit."""
    return NONE if missing(value) else f"{100 * float(value):.1f} %".replace("-", MINUS)


def with_interval(row: Any, name: str, sign: bool = False, scale: float = 1.0, unit: str = "") -> str:
    """A value of a table's row with the interval of its columns `<name>_low` and `<name>_high`, where they are.

    Value and ends have the same decimals, so many that the interval's width shows two digits; a scaled one, such as per cent, at
    least one.
    """
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if missing(value):
        return NONE
    behind = f" {unit}" if unit else ""
    if missing(low) or missing(high) or not (width := abs(high - low) * scale):
        return (signed if sign else number)(value * scale) + behind
    decimals = min(12, max(0 if scale == 1 else 1, 1 - math.floor(math.log10(width))))
    shown = [f"{part * scale:{'+' if sign else ''}.{decimals}f}".replace("-", MINUS) for part in (value, low, high)]
    return f"{shown[0]}{behind} [{shown[1]}, {shown[2]}]"


def table(frame: Table, columns: Sequence[Column], caption: str) -> Html:
    """A table in a box that scrolls; rounded numbers carry their full value as a tooltip. Columns the frame lacks are left out."""
    columns = [column for column in columns if column.name in frame]
    head = element("tr", *(element("th", column.label, scope="col", class_="n" if column.show else None) for column in columns))
    rows = [
        element("tr", *(_cell(value, column) for value, column in zip(row, columns, strict=True)))
        for row in frame[[column.name for column in columns]].astype(object).itertuples(index=False, name=None)
    ]
    body = element("table", element("caption", caption), element("thead", head), element("tbody", joined(rows)))
    return element("div", body, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(value: Any, column: Column) -> Html:
    if column.show is None:
        text = NONE if missing(value) else value
        return element("td", text, class_="w" if len(str(text)) > LONG_TEXT else None)
    text = column.show(value)
    exact = repr(float(value)) if isinstance(value, float) and not missing(value) else None
    return element("td", text, class_="n", title=exact if exact not in (None, text) else None)


def folded(summary: str, *children: Any, anchor: str | None = None) -> Html:
    """Content that is shown on demand."""
    return element("details", element("summary", summary), *children, id=anchor)


def note(text: str) -> Html:
    """A visible remark: something is missing or must be kept in mind."""
    return element("p", text, class_="note")


def csv_link(frame: Table, name: str) -> Html:
    """A link that carries the data itself."""
    data = quote(csv_text(frame), safe="/,:;.()+-_[]=")
    return element("a", f"data ({name}.csv)", href=f"data:text/csv;charset=utf-8,{data}", download=f"{name}.csv")
