"""The whole page: well-formed, complete, self-contained, the same bytes for the same inputs."""

import json
import re
import urllib.parse
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workflow.report.making import once_per_job
from workflow.report.markup import MINUS, number, with_interval
from workflow.report.study_page import write_report

VOID = {"meta", "br", "hr"}
SEVERAL: dict[str, Any] = {
    "runs": {"strict": {}, "permuted": {"reward": "permuted"}}, "layers": [2], "seeds": [0, 1, 2], "texts": ["fixed", "replayed"],
    "latents": 10,
}  # fmt: skip


class Page(HTMLParser):
    """Parses a page and remembers what the tests ask about; a wrongly nested element raises."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self.words: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._remember(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self.words["caption"] = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._remember(tag, attrs)

    def _remember(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> stands twice"
        self.attributes.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"
        if tag == "table":
            self.tables[self.words["caption"]] = self._rows

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        self.words[inside] = self.words.get(inside, "") + data
        if inside in ("td", "th"):
            self._rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a name."""
        return [attributes for name, attributes in self.attributes if name == tag]


def write(study: Any, out: str = "out") -> tuple[Page, str, Path]:
    """The page parsed and as text, and its folder."""
    folder = study.root.parent / out
    write_report(**study.arguments(folder))
    text = (folder / "report.html").read_text(encoding="utf-8")
    return Page(text), text, folder


@pytest.fixture(scope="module")
def plain(made_up: Callable[..., Any]) -> tuple[Any, Page, str, Path]:
    study = made_up(updates=[8, 16])
    return study, *write(study)


@pytest.fixture(scope="module")
def several(made_up: Callable[..., Any]) -> tuple[Any, Page, str, Path]:
    study = made_up(**SEVERAL)
    study.intervene()
    return study, *write(study)


@pytest.fixture(params=["plain", "several"])
def any_page(request: pytest.FixtureRequest) -> tuple[Any, Page, str, Path]:
    return request.getfixturevalue(request.param)


def test_ids_are_unique_and_every_inner_link_leads_somewhere(any_page: tuple[Any, Page, str, Path]) -> None:
    _, page, text, _ = any_page
    assert len(page.ids) == len(set(page.ids))
    links = [a["href"] or "" for tag in ("a", "use") for a in page.of(tag)]
    inner = {link[1:] for link in links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert len(inner) > 10
    assert inner <= set(page.ids)


def test_nothing_is_loaded_from_elsewhere(any_page: tuple[Any, Page, str, Path]) -> None:
    _, page, text, _ = any_page
    assert "http" not in text
    assert not page.of("link")
    assert not page.of("script")
    assert not page.of("img")
    assert {name for _, attributes in page.attributes for name in attributes} & {"src", "srcset", "onclick", "onload"} == set()
    assert all((a["href"] or "").startswith(("#", "data:text/csv")) for a in page.of("a"))


def test_every_figure_is_told_in_words_and_carries_its_data(any_page: tuple[Any, Page, str, Path]) -> None:
    _, page, _, folder = any_page
    drawings, figures = page.of("svg"), page.of("figure")
    assert len(drawings) == len(list((folder / "figures").glob("*.svg"))) > 8
    assert all(svg["role"] == "img" and len(svg["aria-label"] or "") > 30 for svg in drawings)
    assert len(page.of("figcaption")) == len(figures)
    embedded = {a["download"]: urllib.parse.unquote((a["href"] or "").partition(",")[2]) for a in page.of("a") if "download" in a}
    for path in (folder / "figures").glob("*.csv"):
        assert embedded[path.name] == path.read_text(encoding="utf-8")
    assert len(embedded) == len([a for a in page.of("a") if "download" in a])


def test_interventions_are_told_where_they_were_made(
    plain: tuple[Any, Page, str, Path], several: tuple[Any, Page, str, Path]
) -> None:
    assert "interventions" not in plain[1].ids
    page, folder = several[1], several[3]
    assert {"interventions", "figure-outputs", "figure-splice_fixed", "figure-causal_replayed"} <= set(page.ids)
    drawn = {path.name.split(".")[0] for path in (folder / "figures").glob("*.svg")}
    assert {"outputs", "splice_fixed", "splice_replayed", "causal_fixed", "causal_replayed"} <= drawn
    assert "solving" in drawn
    alts = [svg["aria-label"] or "" for svg in page.of("svg")]
    assert any("accuracy at ppo_0008: as it is 0.41" in alt for alt in alts)
    assert any("ΔCE, nats per token at ppo_0008: S_t" in alt and "U_t, null" in alt for alt in alts)


def test_same_inputs_give_the_same_bytes(plain: tuple[Any, Page, str, Path]) -> None:
    study, _, _, folder = plain
    _, _, again = write(study, "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) > 20
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_tables_hold_the_numbers_of_the_inputs(plain: tuple[Any, Page, str, Path]) -> None:
    study, page, _, _ = plain
    head, *rows = page.tables["Held-out quality of every SAE"]
    assert len(rows) == len(study.tables["quality"])
    for row, given in zip(rows, study.tables["quality"], strict=True):
        cells = dict(zip(head, row, strict=True))
        assert cells["stage"] == given["stage"]
        assert cells["nmse [interval]"] == with_interval(given, "nmse")
        assert cells["nmse_pooled"] == number(given["nmse_pooled"])
        assert float(cells["nmse_anchored"]) == pytest.approx(given["nmse_anchored"], rel=1e-3)
    head, *rows = page.tables["Decomposition of the change of nmse since base"]
    for row, given in zip(rows, study.tables["decomposition"], strict=True):
        shift, low, high = re.findall(r"[+−][\d.]+", dict(zip(head, row, strict=True))["shift"])
        ends = (given["shift"], given["shift_low"], given["shift_high"])
        assert [float(text.replace(MINUS, "-")) for text in (shift, low, high)] == pytest.approx(ends, abs=6e-5)


def test_the_opening_says_what_was_run(plain: tuple[Any, Page, str, Path]) -> None:
    _, _, text, _ = plain
    lead = text[text.index('<p class="lead">') :].partition("</p>")[0].replace("\u202f", "")
    assert (
        "Start model: embedded:SmolLM2-135M-Instruct; 1 RL run (PPO, batch 16). Run strict (reward strict): stages base, ppo_0008"
        in lead
    )
    assert "6000 problems from reasoning_gym:chain_sum" in lead
    assert "behind 1 block (10)" in lead
    assert "37035 rows of 576 numbers in 3 shards" in lead
    assert (
        "5 SAEs of kind topk with 2304 latents, k = 32, in the chains real and null, SAE seed 0, trained on the text set fixed. "
        "Active latents per held-out row: topk 31.50." in lead
    )


def test_kinds_without_k_are_told_by_their_l0(made_up: Callable[..., Any]) -> None:
    study = made_up(kinds=["relu", "topk"], seeds=[0, 1])
    page, text, folder = write(study)
    lead = text[text.index('<p class="lead">') :].partition("</p>")[0].replace("\u202f", "")
    assert "of kind relu and topk with 2304 latents, k = 32 where the kind has one, in the chains" in lead
    assert "Active latents per held-out row: relu 31.50 to 32.50 and topk 31.50 to 32.50." in lead
    last, *rows = page.tables["Drift from base to the last stage, text fixed, sinks dropped"]
    found = [dict(zip(last, row, strict=True)) for row in rows]
    assert {(row["kind"], row["l0 at base"], row["l0 at stage"]) for row in found} == {
        (kind, "31.40", "31.40") for kind in study.kinds
    }
    drawn = sorted(path.name for path in (folder / "figures").glob("*l0.svg"))
    assert drawn == ["sae_training.strict_relu_layer_10_l0.svg"], "of topk it is k"


def test_a_job_that_made_several_artefacts_counts_once(made_up: Callable[..., Any]) -> None:
    study = made_up()
    told = json.loads(Path(study.inputs["provenances"][0]).read_text())
    beside = [{**told, "path": f"saes/{kind}/provenance.json"} for kind in ("relu", "topk")]
    other = {**told, "seconds": told["seconds"] + 1, "path": "saes/gated/provenance.json"}
    assert once_per_job([*beside, other]) == [beside[1], other]


def test_main_numbers_name_every_run_stage_and_layer(several: tuple[Any, Page, str, Path]) -> None:
    study, page, _, _ = several
    _, *policies = page.tables["Policies: held-out accuracy by stage"]
    assert [(row[0], row[1]) for row in policies] == [(run, stage) for run in study.runs for stage in study.stages]
    _, *drift = page.tables["Drift from base to the last stage, text fixed, sinks dropped"]
    assert len(drift) == len(study.runs) * len(study.layers) * len(study.seeds)


def test_summary_holds_the_inputs_at_full_precision(several: tuple[Any, Page, str, Path]) -> None:
    study, _, _, folder = several
    numbers = json.loads((folder / "summary.json").read_text())
    kept = [row for row in study.tables["decomposition"] if row["sinks"] == "dropped"]
    assert [row["adaptation_high"] for row in numbers["decomposition"]] == [row["adaptation_high"] for row in kept]
    confirmed = [row.get("rates_confirmed") for row in study.tables["dictionary"]]
    assert [row["rates_confirmed"] for row in numbers["dictionary"]] == confirmed
    assert numbers["exploratory"] == {
        run: ["floor of a repeated fit", "seeds", "permuted rewards", "latents"] for run in study.runs
    }
    curve = pd.read_csv(study.inputs["curves"][0])
    assert numbers["rewards"][0]["first_quarter"] == pytest.approx(curve["reward"].iloc[:2].mean())


def test_transfer_map_prints_the_matrix(plain: tuple[Any, Page, str, Path]) -> None:
    study, _, text, folder = plain
    data = pd.read_csv(folder / "figures/transfer.csv")
    assert len(data) == len(study.stages) ** 2
    drawn = text[text.index('id="figure-transfer"') :]
    drawn = drawn[: drawn.index("</figure>")]
    assert all(f">{number(value)}</text>" in drawn for value in data["nmse"])


def test_given_policies_say_that_they_have_no_curves_and_unknown_kl(made_up: Callable[..., Any]) -> None:
    page, text, folder = write(made_up(given=True, chains=["real"]))
    assert "the policies were given from outside, their training curves are not known here." in text
    assert not list((folder / "figures").glob("ppo_curves*"))
    head, *rows = page.tables["Policies: held-out accuracy by stage"]
    assert {row[head.index("KL to start, nats")] for row in rows} == {"unknown"}
    assert "There is no null chain" in text
    assert "nothing is said about adaptation" in text
    assert "beyond refit (" not in text


def test_lineage_is_drawn_beside_the_null_chain(made_up: Callable[..., Any]) -> None:
    page, text, folder = write(made_up(texts=["fixed", "replayed"]))
    assert "events from base to ppo_0008: born 2 (null 1), die 1 (null 0)" in text
    data = pd.read_csv(folder / "figures/lineage.csv", keep_default_na=False)
    assert set(data["text"]) == {"fixed"}
    assert (folder / "figures/lineage_replayed.strict_topk_layer_10.svg").is_file()
    head, *rows = page.tables["Latents of every SAE, text fixed, sinks dropped"]
    real = next(row for row in rows if row[head.index("chain")] == "real" and row[head.index("stage")] == "ppo_0008")
    assert real[head.index("confirmed by sign flips")] == "3"
    assert real[head.index("born") + 1] == "1"
    _, text, _ = write(made_up(chains=["real"]))
    assert "to ppo_0008: born 2, die 1," in text


def test_missing_columns_leave_a_visible_note(made_up: Callable[..., Any]) -> None:
    study = made_up()
    study.rewrite("transfer", pd.read_parquet(study.inputs["transfer"]).drop(columns=["chain"]))
    study.rewrite("latents", pd.read_parquet(study.inputs["latents"]).drop(columns=["decoder_cosine"]))
    study.rewrite("quality", pd.read_parquet(study.inputs["quality"]).drop(columns=["l0", "rate_refused", "nmse_rowwise"]))
    study.inputs["greedy"], study.inputs["greedy_traces"] = [], []
    _, text, folder = write(study)
    assert "Drift curves, text fixed: left out, the table lacks chain." in text
    assert "Turning of decoder directions, text fixed: left out, the table lacks decoder_cosine." in text
    assert "no problems were solved greedily" in text
    assert (folder / "figures/transfer.csv").is_file()


def test_text_from_files_is_escaped(made_up: Callable[..., Any]) -> None:
    study = made_up(given=True)
    evil = '<script>alert("x")</script>&'
    for path in (study.inputs["policies"][0], study.inputs["provenances"][0]):
        content = json.loads(Path(path).read_text())
        content |= {"source": evil, "commit": evil, "rule": evil, "notes": {evil: evil}}
        Path(path).write_text(json.dumps(content))
    arguments = study.arguments(study.root.parent / "out") | {"title": evil, "study": {**study.study, "problems": {"source": evil}}}
    write_report(**arguments)
    text = Path(arguments["report"]).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert page.words["h1"] == evil
    assert text.count("&lt;script&gt;alert") > 5
    assert "A &lt;Processor&gt; &amp; Co" in text


def test_many_layers_and_stages_work(made_up: Callable[..., Any]) -> None:
    study = made_up(updates=list(range(5, 45, 5)), layers=[23], latents=4)
    page, _, folder = write(study)
    wide = [svg for svg in page.of("svg") if "max-width" not in (svg["style"] or "")]
    assert len(wide) >= len(study.layers)
    assert len(pd.read_csv(folder / "figures/transfer.csv")) == len(study.layers) * len(study.stages) ** 2


def test_panels_on_disk_are_standalone_drawings_without_a_date(plain: tuple[Any, Page, str, Path]) -> None:
    _, _, _, folder = plain
    for path in (folder / "figures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert 'xmlns="http://www.w3.org/2000/svg"' in text
        assert "<dc:date>" not in text
        assert "<text" in text


def test_long_tables_say_where_the_rest_is(several: tuple[Any, Page, str, Path]) -> None:
    study, page, text, _ = several
    caption = next(name for name in page.tables if name.startswith("Transfer: SAE of one stage"))
    rows = len(study.tables["transfer"])
    assert (f"the first 500 of {rows}" in caption) == (rows > 500)
    data = re.search(r'href="data:text/csv;charset=utf-8,([^"]*)" download="transfer_all.csv"', text)
    assert data is not None
    assert len(pd.read_csv(StringIO(urllib.parse.unquote(data[1])))) == rows
