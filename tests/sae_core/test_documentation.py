"""The page that teaches sae_core runs as printed."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sae_core.md"


def test_the_ten_lines_run() -> None:
    torch.manual_seed(0)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {"print": lambda record: None}
    exec(compile(code, str(PAGE), "exec"), names)
    trained, held_out, x_hat = names["trained"], names["held_out"], names["x_hat"]
    assert len(names["trainer"].history) == 4  # type: ignore[attr-defined]  # of the page
    assert trained.epoch >= 1  # type: ignore[attr-defined]  # of the page
    assert x_hat.shape == held_out.shape  # type: ignore[attr-defined]  # of the page
