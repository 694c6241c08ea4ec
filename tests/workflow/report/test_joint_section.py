"""The section on stages side by side: shown where its tables exist, with the numbers of the tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.agreement_columns import Agreement
from workflow.formats.drift_columns import schema
from workflow.formats.joint_columns import CrosscoderStage, Representation
from workflow.report.study_page import write_report


def write_table(study: Any, name: str, rows: list[dict[str, Any]], table: type) -> None:
    """Put one more table beside those of a made-up study."""
    path = study.root / f"drift/{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(table)), path)
    study.inputs[name] = str(path)


def alike(**changes: Any) -> dict[str, Any]:
    """One row of the table of representations."""
    row = {
        "run": "strict", "text": "fixed", "layer": 10, "stage": "ppo_0008", "update": 8, "against": "base", "kl": 0.1,
        "measure": "cka", "at": None, "kind": None, "seed": None, "value": 0.75, "low": 0.7, "high": 0.8, "rows": 99, "prompts": 9,
    }  # fmt: skip
    return row | changes


def dictionary(**changes: Any) -> dict[str, Any]:
    """One row of the table of crosscoders."""
    counts = {"alive": 50, "shared": 44, "rotated": 2, "new": 3, "gone": 1, "new_confirmed": 2, "gone_confirmed": 1, "shrunk": 1,
              "decoupled": 0, "nmse_base": 0.2, "nmse": 0.2, "changed_share": 0.1}  # fmt: skip
    row = {"run": "strict", "text": "fixed", "layer": 10, "seed": 0, "stage": "ppo_0008", "update": 8, "kl": None, "d_sae": 64,
           "k": 4, "train_rows": 99, "rows": 99, "prompts": 9, "l0": 4.0}  # fmt: skip
    ends = {f"{name}{end}": value * factor for name, value in counts.items() for end, factor in (("_low", 0.5), ("_high", 1.5))}
    return row | {name: float(value) for name, value in counts.items()} | ends | changes


def page_of(study: Any, out: Path) -> str:
    write_report(**study.arguments(out))
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_section_is_left_out_where_nothing_was_measured(made_up: Callable[..., Any], tmp_path: Path) -> None:
    assert "Stages side by side" not in page_of(made_up(), tmp_path)


def test_representations_are_drawn_and_tabulated(made_up: Callable[..., Any], tmp_path: Path) -> None:
    study = made_up(updates=[8, 16])
    stages = [("ppo_0008", 8), ("ppo_0016", 16)]
    rows = [alike(stage=stage, update=update, measure=m) for stage, update in stages for m in ("cka", "change_size")]
    rows.append(alike(stage="ppo_0016", update=16, measure="mean_shift_share", value=None, low=None, high=None))
    write_table(study, "representation", rows, Representation)
    page = page_of(study, tmp_path)
    assert "Stages side by side" in page
    assert "1 − CKA at the last stage against base: layer 10 0.25 [0.20, 0.30]" in page
    assert "share of one common shift at the last stage against base: layer 10 –" in page
    assert (tmp_path / "figures/representation.csv").exists()
    assert len(list((tmp_path / "figures").glob("representation.*.svg"))) == 3


def test_crosscoders_are_drawn_with_their_artefacts_apart(made_up: Callable[..., Any], tmp_path: Path) -> None:
    study = made_up()
    write_table(study, "crosscoder", [dictionary(), dictionary(layer=20)], CrosscoderStage)
    page = page_of(study, tmp_path)
    assert "layer 20, seed 0, ppo_0008: of 50 living latents new 2.0 [1.0, 3.0]" in page
    assert "artefact: shrunk" in page
    assert "Rows before any SAE" not in page
    assert len(list((tmp_path / "figures").glob("crosscoder.*.svg"))) == 2


def test_a_table_that_lacks_a_column_is_said_to(made_up: Callable[..., Any], tmp_path: Path) -> None:
    study = made_up()
    write_table(study, "crosscoder", [dictionary()], CrosscoderStage)
    table = pq.read_table(study.inputs["crosscoder"]).drop_columns(["shrunk"])
    pq.write_table(table, study.inputs["crosscoder"])
    assert "left out, the table lacks shrunk" in page_of(study, tmp_path)


def test_agreement_with_the_chain_is_tabulated(made_up: Callable[..., Any], tmp_path: Path) -> None:
    study = made_up()
    verdicts = ("born", "died", "shared")
    counts = {f"{mine}_{theirs}": 3 if mine == theirs else 0 for mine in verdicts for theirs in verdicts}
    row = {"run": "strict", "text": "fixed", "kind": "topk", "seed": 0, "layer": 10, "crosscoder_seed": 0, "stage": "ppo_0008",
           "update": 8, "alive": 12, "cosine_base": 0.9, "cosine": 0.8, "unmatched": 2, "replaced": 1, "judged": 9, **counts,
           "agreement": 1.0, "kappa": 1.0, "chain_born": 5, "chain_born_found": 3, "chain_died": 4,
           "chain_died_found": 3}  # fmt: skip
    write_table(study, "agreement", [row, row | {"stage": "ppo_0016", "kappa": None}], Agreement)
    page = page_of(study, tmp_path)
    assert "Do crosscoder and chain agree?" in page
    assert "born / shared" in page
    assert "ppo_0016" in page
