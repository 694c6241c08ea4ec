"""The whole training: it recovers what was planted, repairs dead latents, and goes on after any update as if never stopped."""

import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sae_core.config.sae import BatchTopKConfig, GatedConfig, JumpReLUConfig, MatryoshkaConfig, ReluConfig, SAEConfig, TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.metrics.reconstruction import mean_l0, nmse, reconstruction_sums
from sae_core.models.build import build, initial
from sae_core.models.sae import SAE
from sae_core.training.optimiser import Optimiser
from sae_core.training.records import Diverged, EpochRecord, HeldOut, Trained
from sae_core.training.resample import due, resample_dead, updates_until_due
from sae_core.training.schedule import learning_rate, sparsity_coef
from sae_core.training.trainer import Trainer
from sae_core.training.update import backward, step

WIDTH, DIRECTIONS = 16, 24


def planted(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    dictionary = functional.normalize(torch.randn(DIRECTIONS, WIDTH, generator=draw), dim=1)
    draw = torch.Generator().manual_seed(seed)
    latents = torch.stack([torch.randperm(DIRECTIONS, generator=draw)[:2] for _ in range(count)])
    amplitudes = 1 + torch.rand(count, 2, generator=draw)
    return 4 * (functional.embedding_bag(latents, dictionary, per_sample_weights=amplitudes, mode="sum") + 0.5)


ROWS, HELD_OUT = planted(2048, 1), planted(512, 2)


def batches(start: int = 0, batch: int = 64) -> Iterator[Tensor]:
    update = start
    while True:
        yield ROWS[torch.randint(len(ROWS), (batch,), generator=torch.Generator().manual_seed(update))]
        update += 1


def quality(sae: SAE) -> HeldOut:
    with torch.no_grad():
        codes = sae.encode(HELD_OUT)
        prompts = torch.zeros(len(HELD_OUT), dtype=torch.int64)
        sums = reconstruction_sums(HELD_OUT, sae.decode(codes, HELD_OUT), prompts, 1, ROWS.mean(0), codes.active_per_row())
    return HeldOut(float(nmse(sums)), float(mean_l0(sums)))


def settings(**changes: object) -> TrainingConfig:
    plain = {"lr": 1e-2, "updates": 60, "updates_per_epoch": 15, "batch": 64, "aux_k": 16, "dead_rate": 2e-3, "resample_epochs": 1}
    return TrainingConfig(**plain | changes)  # type: ignore[arg-type]  # several types


def start(d_sae: int = 64, keep: str = "relu") -> SAE:
    return initial(TopKConfig(d_model=WIDTH, d_sae=d_sae, k=2, keep=keep), ROWS[:256], seed=0)  # type: ignore[arg-type]  # any text


def optimiser_of(sae: SAE) -> Optimiser:
    return Optimiser(sae, TorchBackend(torch.device("cpu")))


def kinds(d_sae: int = 48) -> dict[str, SAEConfig]:
    shape = {"d_model": WIDTH, "d_sae": d_sae}
    return {
        "topk": TopKConfig(k=2, **shape),
        "topk_signed": TopKConfig(k=2, keep="signed", **shape),
        "topk_absolute": TopKConfig(k=2, keep="absolute", **shape),
        "batchtopk": BatchTopKConfig(k=2, **shape),
        "matryoshka": MatryoshkaConfig(k=2, widths=(24, d_sae), **shape),
        "relu": ReluConfig(**shape),
        "jumprelu": JumpReLUConfig(**shape),
        "gated": GatedConfig(**shape),
    }


PRICE = {"relu": 0.05, "jumprelu": 0.02, "gated": 0.05}


@pytest.mark.parametrize("kind", kinds())
def test_training_recovers_planted_directions(kind: str) -> None:
    sae = initial(kinds()[kind], ROWS[:256], seed=0)
    before = quality(sae)
    changes = {"bandwidth": 0.5, "threshold_rate": 0.1, "sparsity_coef": PRICE.get(kind, 0.0), "sparsity_warmup_updates": 100}
    changes |= {"keep_epoch": "last"} if kind in PRICE else {}
    config = settings(updates=600, updates_per_epoch=100, resample_epochs=2, **changes)
    trained = Trainer(sae, config).run(batches(), quality)
    after = quality(build(sae.config, trained.tensors))
    assert after.nmse < min(0.15, before.nmse), (before, after)
    assert after.l0 < 8, (before, after)


def test_thresholds_with_a_rate_of_their_own_bring_l0_back_to_its_target_in_a_warm_start() -> None:
    own = {"bandwidth": 0.5, "sparsity_coef": 0.5, "target_l0": 3.0, "keep_epoch": "last", "resample_epochs": 0}
    sae = initial(kinds()["jumprelu"], ROWS[:256], seed=0, threshold=0.5)
    trained = Trainer(sae, settings(updates=200, updates_per_epoch=100, **own)).run(batches(), quality)
    assert quality(build(sae.config, trained.tensors)).l0 == pytest.approx(3, rel=0.1)
    l0 = {}
    for multiple in (1.0, 10.0):
        strict = build(sae.config, trained.tensors | {"threshold": trained.tensors["threshold"] + 0.5})
        hop = settings(lr=1e-3, updates=100, updates_per_epoch=100, threshold_lr_multiple=multiple, **own)
        Trainer(strict, hop).run(batches(), quality)
        l0[multiple] = quality(strict).l0
    assert l0[1.0] < 2, "at the rate of the weights they move by a tenth of what is missing"
    assert l0[10.0] == pytest.approx(3, rel=0.1)


def test_the_rate_of_thresholds_is_that_of_nothing_else() -> None:
    moved = []
    for multiple in (1.0, 7.0):
        sae = initial(kinds()["jumprelu"], ROWS[:256], seed=0, threshold=0.5)
        before = sae.tensors()
        config = settings(bandwidth=0.5, sparsity_coef=0.5, target_l0=3.0, threshold_lr_multiple=multiple)
        optimiser = optimiser_of(sae)
        step(sae, optimiser, backward(sae, ROWS[:64], config, optimiser, torch.zeros(0, dtype=torch.int64)), 1e-3, config)
        moved.append({name: tensor - before[name] for name, tensor in sae.tensors().items()})
    one, seven = moved
    torch.testing.assert_close(seven.pop("threshold"), 7 * one.pop("threshold"), rtol=1e-4, atol=1e-7)
    assert all(torch.equal(seven[name], one[name]) for name in one)


@pytest.mark.parametrize("resample_epochs", [0, 1])
def test_a_training_can_be_stopped_and_continued_at_any_update_to_the_bit(resample_epochs: int) -> None:
    config = settings(updates=30, updates_per_epoch=10, warmup_updates=4, resample_epochs=resample_epochs)
    states: list[bytes] = []
    whole = Trainer(start(), config)

    def save(_: int) -> None:
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        states.append(buffer.getvalue())

    expected = whole.run(batches(), quality, on_update=save)
    assert whole.history[0].dead_share > 0, "the test must cover dead latents, revived by AuxK or re-initialised"
    assert (whole.history[0].resampled > 0) == (resample_epochs == 1)
    for state in states:
        trainer = Trainer(initial(whole.sae.config, ROWS[100:300], seed=9), config)
        trainer.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        same(trainer.run(batches(trainer.update), quality), expected)
        assert trainer.history == whole.history


def same(found: Trained, expected: Trained) -> None:
    for name in expected.tensors:
        assert torch.equal(found.tensors[name], expected.tensors[name]), name
    assert torch.equal(found.firing_rate, expected.firing_rate)
    assert torch.equal(found.reinitialised, expected.reinitialised)
    assert found.epoch == expected.epoch


def test_a_snapshot_does_not_move_when_the_training_goes_on() -> None:
    trainer, kept = Trainer(start(), settings()), []
    trainer.run(batches(), quality, on_update=lambda update: kept.append(trainer.state_dict()) if update == 7 else None)
    again = Trainer(start(), settings())
    again.load_state_dict(kept[0])
    assert again.update == 7
    same(again.run(batches(7), quality), trainer.best)  # type: ignore[arg-type]  # there is one


def test_the_history_tells_every_epoch() -> None:
    records: list[EpochRecord] = []
    trainer = Trainer(start(), settings())
    trained = trainer.run(batches(), quality, on_epoch=records.append)
    assert records == trainer.history
    assert [(record.epoch, record.update) for record in records] == [(1, 15), (2, 30), (3, 45), (4, 60)]
    assert records[-1].train_loss < records[0].train_loss
    assert [record.lr for record in records] == [learning_rate(update, trainer.config) for update in (14, 29, 44, 59)]
    assert records[-1].resampled == 0, "never after the last epoch"
    assert records[trained.epoch - 1].nmse == min(record.nmse for record in records)


def test_the_best_epoch_is_kept_not_the_last() -> None:
    scores = iter([0.5, 0.2, 0.3, 0.4])
    at_second: list[dict[str, Tensor]] = []

    def scripted(sae: SAE) -> HeldOut:
        score = next(scores)
        if score == 0.2:
            at_second.append(sae.tensors())
        return HeldOut(score, 2.0)

    trained = Trainer(start(), settings()).run(batches(), scripted)
    assert trained.epoch == 2
    assert all(torch.equal(trained.tensors[name], at_second[0][name]) for name in trained.tensors)


def test_firing_rates_are_shares_of_the_epochs_rows() -> None:
    trainer = Trainer(start(), settings(updates=15, aux_coef=0.0))
    trained = trainer.run(batches(), quality)
    assert float(trained.firing_rate.sum()) <= 2 + 1e-6, "at most k latents fire on a row"
    assert float(trained.firing_rate.sum()) > 1
    dead = float((trained.firing_rate < trainer.config.dead_rate).double().mean())
    assert trainer.history[0].dead_share == dead


def test_dead_latents_come_back_by_the_auxiliary_loss() -> None:
    def alive(aux_coef: float) -> float:
        sae = start(64)
        with torch.no_grad():
            sae.b_enc[32:] -= 1.5
        trainer = Trainer(sae, settings(aux_coef=aux_coef, resample_epochs=0, updates=150))
        trainer.run(batches(), quality)
        return 1 - trainer.history[-1].dead_share

    assert alive(1.0) > alive(0.0) + 0.1


def test_resampled_latents_point_at_badly_reconstructed_rows() -> None:
    sae, config = start(64), settings(resample_from="worst_quartile")
    optimiser = optimiser_of(sae)
    step(sae, optimiser, backward(sae, ROWS[:64], config, optimiser, torch.zeros(0, dtype=torch.int64)), 1e-3, config)
    dead = torch.zeros(64, dtype=torch.bool)
    dead[[3, 9, 40]] = True
    before, rows = sae.tensors(), ROWS[:200]
    errors = (rows - sae(rows)).square().sum(1)
    candidates = functional.normalize(rows[errors >= errors.quantile(0.75)] / sae.scale - sae.b_pre, dim=1)
    assert resample_dead(sae, optimiser, dead, rows, config, seed=5).tolist() == [3, 9, 40]
    found = sae.tensors()
    assert torch.equal(found["W_enc"][dead], found["W_dec"][dead])
    assert float((found["W_enc"][dead] @ candidates.detach().T).max(1).values.min()) > 1 - 1e-5
    assert len(torch.unique(sae.W_enc[dead], dim=0)) == 3
    assert (sae.b_enc[dead] == 0).all()
    for name in ("W_enc", "W_dec", "b_enc"):
        assert torch.equal(getattr(sae, name)[~dead], before[name][~dead])
        first, second = optimiser.state_dict()["moments"][name]
        assert (first[dead] == 0).all()
        assert (second[dead] == 0).all()
        assert bool((second != 0).any())
    assert torch.equal(sae.b_dec, before["b_dec"])


@pytest.mark.parametrize("rule", ["worst_quartile", "squared_loss"])
def test_no_row_serves_two_latents(rule: str) -> None:
    sae, dead = start(64), torch.ones(64, dtype=torch.bool)
    rows = ROWS[:20].repeat(10, 1)
    latents = resample_dead(sae, optimiser_of(sae), dead, rows, settings(resample_from=rule), seed=0)
    assert 0 < len(latents) <= 20
    assert len(torch.unique(sae.W_enc[latents], dim=0)) == len(latents)


def test_reinitialised_latents_of_a_warm_start_stay_marked() -> None:
    marked = torch.zeros(64, dtype=torch.bool)
    marked[7] = True
    trained = Trainer(start(), settings(resample_epochs=0), marked).run(batches(), quality)
    assert trained.reinitialised.nonzero().squeeze(1).tolist() == [7]


def test_a_warm_start_with_a_tiny_learning_rate_keeps_every_index() -> None:
    first = Trainer(start(), settings(resample_epochs=0)).run(batches(), quality)
    warm = build(TopKConfig(d_model=WIDTH, d_sae=64, k=2), first.tensors)
    second = Trainer(warm, settings(lr=1e-6, updates=15, resample_epochs=0)).run(batches(), quality)
    same_index = functional.cosine_similarity(first.tensors["W_dec"], second.tensors["W_dec"])
    assert float(same_index.min()) > 0.9999


def test_a_warm_start_with_moments_goes_on_as_if_nothing_had_happened() -> None:
    constant = {"schedule": "constant", "resample_epochs": 0, "aux_coef": 0.0, "keep_epoch": "last", "keep_moments": True}
    whole = Trainer(start(), settings(updates=60, **constant)).run(batches(), quality)
    first = Trainer(start(), settings(updates=30, **constant)).run(batches(), quality)
    assert first.moments is not None
    warm = build(TopKConfig(d_model=WIDTH, d_sae=64, k=2), first.tensors)
    second = Trainer(warm, settings(updates=30, **constant), moments=first.moments).run(batches(30), quality)
    for name in whole.tensors:
        assert torch.equal(second.tensors[name], whole.tensors[name]), name
    assert second.moments is not None
    assert whole.moments is not None
    assert second.moments.count == whole.moments.count == 60
    assert torch.equal(second.moments.second["W_enc"], whole.moments.second["W_enc"])
    assert Trainer(start(), settings(updates=15)).run(batches(), quality).moments is None


def test_moments_of_the_kept_epoch_survive_a_stop() -> None:
    scores, config = iter([0.5, 0.2, 0.3, 0.4]), settings(keep_moments=True)
    trainer, kept = Trainer(start(), config), []
    trained = trainer.run(
        batches(), lambda sae: HeldOut(next(scores), 2.0), on_update=lambda update: kept.append(trainer.state_dict())
    )
    assert trained.moments is not None
    assert trained.moments.count == 30, "the second epoch is the best"
    again = Trainer(start(), config)
    again.load_state_dict(kept[34])
    assert again.best is not None
    assert again.best.moments is not None
    assert torch.equal(again.best.moments.first["b_enc"], trained.moments.first["b_enc"])


def test_moments_of_another_shape_are_refused() -> None:
    moments = optimiser_of(start(64)).moments()
    with pytest.raises(ValueError, match="Moments must be those of an SAE of the same kind and shape"):
        Trainer(start(48), settings(), moments=moments)


def test_a_held_out_quality_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(ValueError, match=r"must stay finite; at update 15 .* Lower the learning rate"):
        Trainer(start(), settings()).run(batches(), lambda sae: HeldOut(float("nan"), 0.0))


def test_divergence_names_the_update_and_puts_the_last_good_state_back() -> None:
    good: list[dict[str, Tensor]] = []
    trainer = Trainer(start(), settings())

    def poisoned() -> Iterator[Tensor]:
        for update, rows in enumerate(batches()):
            yield 1e30 * rows if update == 21 else rows

    with pytest.raises(Diverged, match=r"at update 22 it was .*back at its state after update 15") as caught:
        trainer.run(poisoned(), quality, on_update=lambda update: good.append(trainer.sae.tensors()) if update == 15 else None)
    assert caught.value.update == 22
    assert trainer.update == 15
    for name, tensor in trainer.sae.tensors().items():
        assert torch.equal(tensor, good[0][name]), name


def test_rows_that_are_no_numbers_are_named() -> None:
    rows = ROWS[:64].clone()
    rows[[5, 9], 3] = float("nan")
    with pytest.raises(ValueError, match=r"of the batch of update 1, row 5 and 1 more are not"):
        Trainer(start(), settings()).run(iter([rows]), quality)


def test_a_stream_that_ends_too_early_is_refused() -> None:
    with pytest.raises(ValueError, match="60 updates must be given as many batches; the stream ended after 3"):
        Trainer(start(), settings()).run(iter([ROWS[:64]] * 3), quality)


def test_patience_ends_a_training_that_no_longer_gets_better_and_survives_a_stop() -> None:
    def scripted() -> Iterator[float]:
        yield from (0.5, 0.2, 0.3, 0.4, 0.1)

    scores, config = scripted(), settings(updates=75, patience=2)
    trainer = Trainer(start(), config)
    assert trainer.run(batches(), lambda sae: HeldOut(next(scores), 2.0)).epoch == 2
    assert trainer.update == 60
    again = Trainer(start(), config)
    again.load_state_dict(trainer.state_dict())
    assert again.finished
    assert again.run(batches(60), quality).epoch == 2


@pytest.mark.parametrize("rule", [{"resample_updates": 20}, {"resample_rows": 20 * 64}, {"resample_rows": 20 * 64 - 5}])
def test_latents_are_re_initialised_by_updates_and_by_rows(rule: dict[str, int]) -> None:
    config = settings(resample_epochs=0, aux_coef=0.0, **rule)
    assert [update for update in range(61) if due(update, config)] == [20, 40]
    assert [updates_until_due(update, config) for update in (0, 1, 19, 20, 40, 41)] == [0, 19, 1, 0, 0, None]
    trainer = Trainer(start(), config)
    trained = trainer.run(batches(), quality)
    assert [record.resampled > 0 for record in trainer.history] == [False, True, True, False]
    assert bool(trained.reinitialised.any())


def test_rows_drawn_by_squared_loss_give_quiet_encoders() -> None:
    sae, config = start(64), settings(resample_from="squared_loss")
    dead = torch.zeros(64, dtype=torch.bool)
    dead[[3, 9]] = True
    living = sae.W_enc.detach()[~dead].norm(dim=1).mean()
    resample_dead(sae, optimiser_of(sae), dead, ROWS[:200], config, seed=5)
    torch.testing.assert_close(sae.W_enc.detach()[dead].norm(dim=1), (0.2 * living).expand(2))
    torch.testing.assert_close(sae.W_dec.detach()[dead].norm(dim=1), torch.ones(2))


def test_the_learning_rate_rises_then_falls_to_its_floor() -> None:
    config = settings(lr=2.0, lr_floor=0.1, warmup_updates=10, updates=60)
    rates = [learning_rate(update, config) for update in range(61)]
    assert rates[:10] == pytest.approx([0.2 * (update + 1) for update in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[35] == pytest.approx((2.0 + 0.2) / 2)
    assert rates[60] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_other_schedules() -> None:
    shape = {"lr": 2.0, "updates": 60, "updates_per_epoch": 60, "lr_floor": 0.1}
    constant, linear = settings(schedule="constant", **shape), settings(schedule="linear", **shape)
    assert {learning_rate(update, constant) for update in range(60)} == {2.0}
    assert [learning_rate(update, linear) for update in (0, 30, 60)] == pytest.approx([2.0, 1.1, 0.2])
    restarts = settings(schedule="restarts", restart_updates=20, warmup_updates=5, **shape)
    assert [learning_rate(update, restarts) for update in (5, 25, 45)] == pytest.approx([2.0, 2.0, 2.0])
    assert learning_rate(24, restarts) < 0.25
    with pytest.raises(ValueError, match="restart_updates must be at least 1"):
        settings(schedule="restarts")
    with pytest.raises(ValueError, match="At most one of resample_epochs"):
        settings(resample_updates=5)


def test_the_price_of_activity_rises_over_its_warm_up() -> None:
    config = settings(sparsity_coef=4.0, sparsity_warmup_updates=8)
    assert [sparsity_coef(update, config) for update in (0, 2, 8, 50)] == [0.0, 1.0, 4.0, 4.0]
