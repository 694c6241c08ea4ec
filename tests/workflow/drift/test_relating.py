"""The second pass: its correlations and shares are those of dense activations, whatever the batches."""

import numpy as np
import pytest
import torch

from sae_core.config.sae import TopKConfig
from sae_core.kernels.codes import Codes
from sae_core.models.topk import TopKSAE
from workflow.drift.relating import Related, Relation, Side, relate
from workflow.formats.masks import StageRows

D, LATENTS, ROWS = 10, 14, 200
PAIRS = torch.tensor([[0, 0], [3, 3], [5, 7]])
ALIVE = torch.arange(LATENTS) != 2
KEEP = np.random.default_rng(0).random(ROWS) < 0.9


class RowsInMemory:
    """Rows that need no file."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def sequential(self, batch_rows: int):
        for start in range(0, len(self.x), batch_rows):
            yield self.x[start : start + batch_rows], slice(start, min(start + batch_rows, len(self.x)))


def sae(seed: int, turned: float = 0.0) -> TopKSAE:
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(LATENTS, D, generator=torch.Generator().manual_seed(9)) + turned * torch.randn(LATENTS, D, generator=draw)
    W = torch.nn.functional.normalize(W, dim=1)
    tensors = {"W_enc": W, "W_dec": W, "b_enc": torch.zeros(LATENTS), "b_dec": torch.zeros(D), "b_pre": torch.zeros(D)}
    return TopKSAE(TopKConfig(d_model=D, d_sae=LATENTS, k=3), tensors | {"scale": torch.tensor(1.0)})


def rows(seed: int, count: int = ROWS) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


X0 = rows(0)
XT = X0 + 0.3 * rows(1)
S0, ST, UT = sae(0), sae(1, 0.3), sae(2, 0.2)


class CodesInMemory:
    """Codes that need no file."""

    def __init__(self, model: TopKSAE, x: torch.Tensor) -> None:
        self.model, self.x = model, x

    def take(self, rows: int) -> Codes:
        x, self.x = self.x[:rows], self.x[rows:]
        return self.model.encode(x)


def side(x: torch.Tensor, keep: np.ndarray = KEEP, **saes: TopKSAE) -> Side:
    kept, zeros = x[torch.from_numpy(keep)], torch.zeros(D, dtype=torch.float64)
    codes = {chain: CodesInMemory(model, kept) for chain, model in saes.items()}
    return Side(RowsInMemory(x), StageRows(np.zeros(len(x), np.int64), keep), zeros, CodesInMemory(S0, kept), codes)


def related(batch_rows: int = 64, paired: bool = True, x: torch.Tensor = XT, keep: np.ndarray = KEEP) -> dict[str, Relation]:
    return relate(
        base=side(X0, real=ST, null=UT), stage=side(x, keep, real=ST), paired=paired, frozen=S0, batch_rows=batch_rows,
        device=torch.device("cpu"),
        related={"real": Related(ST, ALIVE, PAIRS, on_base=False), "null": Related(UT, ALIVE, PAIRS, on_base=True)},
    )  # fmt: skip


def dense(model: TopKSAE, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_dense(x).double()


def correlation(f: torch.Tensor, g: torch.Tensor) -> list[float]:
    return [float(torch.corrcoef(torch.stack([f[:, i], g[:, j]]))[0, 1]) for i, j in PAIRS.tolist()]


def share(f: torch.Tensor, decoder: torch.Tensor, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    error, made = ((f * (target @ decoder.T)).sum(0) for target in (x.double() - x_hat, x_hat))
    return torch.where(error + made > 0, error / (error + made), torch.nan)


def test_paired_rows_are_compared_each_under_its_own_sae() -> None:
    found, kept = related(), torch.from_numpy(KEEP)
    assert found["real"].correlation.tolist() == pytest.approx(correlation(dense(ST, XT[kept]), dense(S0, X0[kept])), abs=1e-9)
    assert found["null"].correlation.tolist() == pytest.approx(correlation(dense(UT, X0[kept]), dense(S0, X0[kept])), abs=1e-9)


def test_unpaired_rows_are_those_of_the_later_stage() -> None:
    x, keep = rows(5, 150), np.ones(150, bool)
    found = related(paired=False, x=x, keep=keep)["real"]
    assert found.correlation.tolist() == pytest.approx(correlation(dense(ST, x), dense(S0, x)), abs=1e-9)
    torch.testing.assert_close(found.ancestor_unexplained, related()["real"].ancestor_unexplained, equal_nan=True)


def test_births_ask_the_whole_base_and_deaths_the_alive_latents_of_the_later_sae() -> None:
    kept = torch.from_numpy(KEEP)
    x0, xt = X0[kept], XT[kept]
    with torch.no_grad():
        d0, dt = S0.W_dec.double(), ST.W_dec.double()
        by_base, by_alive = dense(S0, xt) @ d0, (dense(ST, x0) * ALIVE) @ dt
        found = related()["real"]
        expected = share(dense(ST, xt), dt, xt, by_base), share(dense(S0, x0), d0, x0, by_alive)
    torch.testing.assert_close(found.unexplained, expected[0], rtol=1e-4, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(found.ancestor_unexplained, expected[1], rtol=1e-4, atol=1e-5, equal_nan=True)
    whole = share(dense(S0, x0), d0, x0, dense(ST, x0) @ dt)
    assert float(found.ancestor_unexplained[2]) > float(whole[2]) + 0.2, "what 2 itself would explain does not count"


@pytest.mark.parametrize("batch_rows", [7, 33, 4096])
def test_batches_change_no_number(batch_rows: int) -> None:
    for one, other in zip(related().values(), related(batch_rows).values(), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, equal_nan=True)
