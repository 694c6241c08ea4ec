"""Values given on the command line reach the typed configuration."""

import pytest
import yaml
from planning import ROOT
from snakemake.cli import parse_config

from workflow.config.overrides import with_overrides
from workflow.config.section import ConfigError
from workflow.config.study import Study, load_study

MATRYOSHKA = {"kinds": ["matryoshka_batchtopk"]}
GIVEN = {"r": [{"stage": stage, "model": "m"} for stage in ("base", "ppo_0001")]}
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def test_strings_from_the_command_line_become_the_declared_types() -> None:
    study = load_study({"saes": {"k": "64", "lr": "0.0003"}, "design": {"seeds": ["1", "2"]}, "compute": {"threads": "4"}})
    assert (study.saes.k, study.saes.lr, study.design.seeds, study.compute.threads) == (64, 0.0003, [1, 2], 4)


def test_dotted_assignments_reach_nested_values_and_leave_the_others() -> None:
    study = load_study(DEFAULT | {"set": "saes.k=16 policies.kl_coef=0.01 policies.warmup.updates=3 design.layers=[3,4]"})
    assert (study.saes.k, study.policies.kl_coef, study.policies.warmup.updates) == (16, 0.01, 3)
    assert study.design.layers == [3, 4]
    assert study.saes.expansion == DEFAULT["saes"]["expansion"]


def test_values_may_hold_blanks_in_quotes() -> None:
    for text in ("report.title='Two words'", "'report.title=Two words'", "report.title='Two words"):
        assert with_overrides({"set": text}) == {"report": {"title": "Two words"}}


def test_an_apostrophe_is_no_quote() -> None:
    assert with_overrides({"set": "a=Anna's b={c: Bo's}"}) == {"a": "Anna's", "b": {"c": "Bo's"}}


@pytest.mark.parametrize("text", ["b=2 a={u: 'x y, z', v: [1, 2]}", "'a={u: \"x y, z\", v: [1, 2]}'  b=2"])
def test_values_may_hold_blanks_in_brackets(text: str) -> None:
    assert with_overrides({"set": text}) == {"a": {"u": "x y, z", "v": [1, 2]}, "b": 2}


def test_what_snakemake_makes_of_the_documented_command_is_read() -> None:
    command = 'set="probes.judge={url: http://localhost:8000/v1, model: my-model}"'
    assert with_overrides(parse_config([command])) == {
        "probes": {"judge": {"url": "http://localhost:8000/v1", "model": "my-model"}}
    }


def test_the_default_configuration_is_not_changed_by_an_override() -> None:
    before = yaml.safe_dump(DEFAULT)
    load_study(DEFAULT | {"set": "saes.k=16"})
    assert yaml.safe_dump(DEFAULT) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"saes": {"kk": 3}}, "Did you mean saes.k?"),
        ({"sae": {}}, "Did you mean saes?"),
        ({"set": "policies.klcoef=1"}, "Did you mean policies.kl_coef?"),
        ({"policies": {"warmup": {"update": 3}}}, "Did you mean policies.warmup.updates?"),
        ({"saes": {"by_layer": {"3": {"kk": 1}}}}, "Did you mean saes.by_layer.3.k?"),
        ({"design": {"runs": {"a": {"rewardd": "strict"}}}}, "rewardd"),
        ({"saes": {"k": "many"}}, "saes.k is not valid"),
        ({"saes": {"k": 0}}, "saes.k is not valid"),
        ({"saes": {"seeds": [1]}}, "must stand in the section design; found saes.seeds. Write design.seeds."),
        ({"set": "activations.layers=[3]"}, "Write design.layers."),
        ({"design": {"kl_sweep": [0.1, 0.1]}}, "design.kl_sweep must hold each value once"),
        ({"design": {"kl_sweep": [-0.1]}}, "design.kl_sweep.0 is not valid"),
        ({"design": {"runs": {"a": {}, "a_seed_1": {}}, "rl_seeds": [1]}}, "design gives two of them a_seed_1"),
        ({"policies": {"source": "given", "given": GIVEN}, "design": {"rl_seeds": [1]}}, "got [] and [1]. Empty both, and list"),
        ({"design": {"runs": {"strict": None}}}, "design.runs must name at least one run"),
        ({"design": {"layers": "ten"}}, "design.layers is not valid"),
        ({"set": "saes.k"}, "must have the form section.key=value"),
        ({"set": "saes.k={1: [2}"}, "must be YAML"),
        ({"set": "saes.k.x=3", "saes": {"k": 32}}, "holds the value 32"),
        ({"set": 3}, "set must be text"),
        ({"design": {"chains": ["null"]}}, "must hold `real`"),
        ({"design": {"seeds": [1, 1]}}, "each value once"),
        ({"design": {"kinds": ["topl"]}}, "design.kinds.0 is not valid"),
        ({"saes": {"by_kind": {"topk": {"kk": 1}}}}, "Did you mean saes.by_kind.topk.k?"),
        ({"saes": {"by_kind": {"relu": {"lr": 1e-4}}}}, "may name only kinds of design.kinds = ['topk']; got relu. Add the kind"),
        ({"saes": {"by_kind": {"topk": {"target_l0": 3}}}}, "got target_l0, read by jumprelu. Remove it."),
        ({"saes": {"sparsity_coef": 0.1}}, "saes.sparsity_coef is read by the kinds relu, jumprelu, gated alone"),
        ({"saes": {"widths": [0.5, 1.0]}}, "saes.widths is read by the kinds matryoshka_batchtopk alone"),
        ({"design": {"kinds": ["relu"]}}, "saes.sparsity_coef must be above 0 for the kind relu"),
        ({"design": {"kinds": ["topk", "gated"]}}, "by saes.by_kind.gated.sparsity_coef=0.01"),
        (
            {"design": {"kinds": ["relu"]}, "saes": {"sparsity_coef": 0.1, "patience": 2}},
            "saes.patience must be 0 for the kinds relu",
        ),
        ({"saes": {"schedule": "restarts"}}, "saes.restart_updates must be at least 1 with saes.schedule=restarts"),
        ({"saes": {"resample_updates": 100}}, "saes.resample_rows may be above 0; got 2, 100, 0 for topk. Set the others to 0."),
        ({"design": MATRYOSHKA, "saes": {"widths": [0.5, 0.25, 1]}}, "rise from above 0 to 1; got [0.5, 0.25, 1.0]"),
        ({"design": MATRYOSHKA, "saes": {"widths": [0.25, 0.5]}}, "end with 1.0"),
        ({"compute": {"backend": "fast"}}, "compute.backend is not valid"),
        ({"design": {"runs": {"shared": {}}}}, "not shared"),
        ({"policies": {"stages": [10, 5]}}, "must rise"),
        ({"policies": {"minibatches": 3}}, "must divide"),
        ({"policies": {"source": "given"}}, "must list the stages"),
        ({"problems": {"splits": {"dev": 1}}}, "may name only"),
        ({"problems": {"splits": {"train": 1, "val": 0, "test": 1}}}, "problems.splits.val must be above 0"),
    ],
)
def test_bad_values_are_refused_with_what_to_do(config: dict, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_study(config)
    assert message in str(refusal.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        load_study({"saes": {"kk": 3, "lr": "fast"}, "drif": {}})
    assert len(str(refusal.value).splitlines()) == 3


def test_the_default_file_names_every_key_of_the_typed_configuration() -> None:
    def keys(value: dict, path: str = "") -> set[str]:
        inner = [keys(v, f"{path}{name}.") for name, v in value.items() if isinstance(v, dict)]
        return {f"{path}{name}" for name in value}.union(*inner)

    typed = Study().model_dump()
    free = ("problems.options.", "problems.mixture.", "problems.splits.", "design.runs.", "saes.by_kind.")
    assert {k for k in keys(typed) if not k.startswith(free)} == {k for k in keys(DEFAULT) if not k.startswith(free)}


def test_an_unquoted_null_chain_is_the_chain() -> None:
    assert load_study({"set": "design.chains=[real,null]"}).design.chains == ["real", "null"]


def test_a_run_set_to_null_is_taken_out() -> None:
    assert load_study({"design": {"runs": {"strict": None, "loose": {"reward": "flexible"}}}}).runs == ["loose"]


def test_runs_are_crossed_with_kl_coefficients_and_seeds_and_named_by_their_own_value() -> None:
    arms = {"strict": {}, "permuted": {"reward": "permuted", "seed": 3}}
    study = load_study({"policies": {"kl_coef": 0.02}, "design": {"runs": arms, "kl_sweep": [0, 0.02, 1e-5], "rl_seeds": [0, 3]}})
    found = {name: (run.reward, run.kl_coef, run.seed) for name, run in study.ppo.items()}
    assert found["strict"] == ("strict", 0.02, 0)
    assert found["strict_kl_0"] == ("strict", 0.0, 0)
    assert found["strict_kl_1em05"] == ("strict", 1e-5, 0)
    assert found["permuted_seed_0"] == ("permuted", 0.02, 0)
    assert found["permuted_kl_0_seed_0"] == ("permuted", 0.0, 0)
    assert len(found) == 2 * 3 * 2
    assert len(set(found.values())) == len(found), "no run is made twice"
    fewer = load_study({"policies": {"kl_coef": 0.02}, "design": {"runs": arms, "rl_seeds": [0, 3]}}).ppo
    assert fewer.items() <= study.ppo.items(), "another value renames no run"
    assert study.described()["design"]["runs"]["strict_kl_0_seed_3"] == {"kl_coef": 0.0, "seed": 3}


def test_a_run_overrides_ppo_settings_only_for_itself() -> None:
    study = load_study(
        {"policies": {"kl_coef": 0.01}, "design": {"runs": {"a": {}, "b": {"kl_coef": "0.05", "reward": "permuted"}}}}
    )
    assert (study.ppo["a"].kl_coef, study.ppo["b"].kl_coef, study.ppo["b"].reward) == (
        0.01,
        0.05,
        "permuted",
    )


def test_one_layer_may_have_its_own_k_and_later_hops_their_own_epochs() -> None:
    saes = load_study({"saes": {"k": 8, "by_layer": {"23": {"k": 256}}, "epochs": 6, "hop_epochs": 2}}).saes
    assert (saes.settings("topk", 23, 0).k, saes.settings("topk", 22, 0).k) == (256, 8)
    assert (saes.settings("topk", 22, 0).epochs, saes.settings("topk", 22, 1).epochs) == (6, 2)


def test_one_kind_may_have_its_own_value_of_every_setting_and_a_layer_goes_before_it() -> None:
    own = {"jumprelu": {"sparsity_coef": "0.01", "target_l0": 16, "sparsity_warmup_updates": 50}, "topk": {"k": 4, "lr": 0.01}}
    layers = {"23": {"k": 256}}
    saes = load_study({"design": {"kinds": ["topk", "jumprelu"]}, "saes": {"k": 8, "by_kind": own, "by_layer": layers}}).saes
    assert (saes.settings("jumprelu", 22, 0).sparsity_coef, saes.settings("topk", 22, 0).sparsity_coef) == (0.01, 0.0)
    assert [saes.settings("topk", layer, 0).k for layer in (22, 23)] == [4, 256]
    assert (saes.settings("topk", 22, 0).lr, saes.settings("jumprelu", 22, 0).lr) == (0.01, 0.001)
    assert [saes.settings("jumprelu", 22, hop).sparsity_warmup_updates for hop in (0, 1)] == [50, 0]
    assert saes.params()["by_kind"]["topk"] == {"k": 4, "lr": 0.01}, "only what was set"


def test_a_kind_with_a_rule_of_re_initialisation_of_its_own_follows_that_alone() -> None:
    own = {"relu": {"sparsity_coef": 0.1}, "gated": {"sparsity_coef": 0.1, "resample_epochs": 3}, "topk": {"resample_updates": 50}}
    saes = load_study({"design": {"kinds": ["topk", "batchtopk", "relu", "gated"]}, "saes": {"by_kind": own}}).saes
    found = {kind: saes.settings(kind, 1, 0) for kind in ("topk", "batchtopk", "relu", "gated")}
    rules = {kind: (one.resample_epochs, one.resample_updates, one.resample_rows) for kind, one in found.items()}
    assert rules == {"topk": (0, 50, 0), "batchtopk": (2, 0, 0), "relu": (2, 0, 0), "gated": (3, 0, 0)}


def test_a_dotted_assignment_reaches_a_kind_and_null_takes_it_out_again() -> None:
    saes = load_study(DEFAULT | {"set": "design.kinds=[relu] saes.by_kind.relu.sparsity_coef=0.003"}).saes
    assert saes.settings("relu", 10, 0).sparsity_coef == 0.003
    assert load_study(DEFAULT | {"set": "saes.by_kind.relu=null"}).saes.by_kind == {}
