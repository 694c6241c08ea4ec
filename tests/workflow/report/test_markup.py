"""Escaping and the printing of numbers."""

import pandas as pd
import pytest

from workflow.report.markup import MINUS, Column, Html, element, number, percent, plain, signed, slug, table, with_interval


def test_text_and_attributes_are_escaped_but_html_is_not() -> None:
    inner = element("b", "<&>", title='"x"<')
    assert inner == '<b title="&quot;x&quot;&lt;">&lt;&amp;&gt;</b>'
    assert element("p", inner, "'") == f"<p>{inner}&#x27;</p>"
    assert isinstance(inner, Html)


def test_attributes_follow_html() -> None:
    assert element("td", "x", class_="n", aria_label="y", hidden=True, title=None) == '<td class="n" aria-label="y" hidden>x</td>'
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (-12.3456, f"{MINUS}12.35"), (0, "0"), (123456.0, "123456"), (1.5e-7, f"1.500e{MINUS}07"), (None, "–"),
     (float("nan"), "–"), (9.99996, "10.000")],
)  # fmt: skip
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_signed_percent_and_plain() -> None:
    assert signed(0.5) == "+0.5000"
    assert signed(-0.5) == f"{MINUS}0.5000"
    assert percent(0.1234) == "12.3 %"
    assert plain(1234567) == "1\u202f234\u202f567"
    assert plain(3.0) == "3"
    assert plain(float("nan")) == "–"


def test_an_interval_decides_how_many_decimals_are_shown() -> None:
    row = {"x": 0.123456, "x_low": 0.1201, "x_high": 0.1289}
    assert with_interval(row, "x") == "0.1235 [0.1201, 0.1289]"
    assert with_interval({"x": -5.0, "x_low": -30.0, "x_high": 20.0}, "x", sign=True) == f"{MINUS}5 [{MINUS}30, +20]"
    assert with_interval(row, "x", scale=100, unit="%") == "12.35 % [12.01, 12.89]"
    assert with_interval({"x": 0.5}, "x") == "0.5000"
    assert with_interval({"x": None, "x_low": None, "x_high": None}, "x") == "–"


def test_a_rounded_cell_carries_its_full_value() -> None:
    frame = pd.DataFrame({"a": ["<i>"], "b": [0.123456789], "c": [7]})
    html = table(frame, [Column("a", "A"), Column("b", "B", number), Column("c", "C", plain), Column("absent", "D")], "caption")
    assert '<td class="n" title="0.123456789">0.1235</td>' in html
    assert "<td>&lt;i&gt;</td>" in html
    assert ">D<" not in html


def test_slugs_are_safe_names() -> None:
    assert slug("a b/ü", 3) == "a_b__-3"
