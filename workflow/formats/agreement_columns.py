"""What crosscoders and the chain `real` say of the same latents; tables written like those of `drift_columns`.

The partner of a crosscoder latent at a stage is the alive latent of S at this stage, S_0 at base, whose decoder direction has the
largest signed cosine with the latent's decoder row of this stage. It counts where the cosine is above drift.ancestor_cosine.

Verdicts. Of the crosscoder: `born` (new, confirmed), `died` (gone, confirmed), else `shared`. Of the chain, by the partners at the
stages where the latent has a decoder row (not base where it is new, not the stage where it is gone): `born` if the partner at the
stage was born by all conditions of the table `latents`, `died` if that at base died, `shared` if neither, `replaced` if both,
`unmatched` if a partner is lacking. No verdict has an interval: prompts stand behind both, in the tables that they are taken from.
"""

from typing import NamedTuple


class Match(NamedTuple):
    """One latent of one crosscoder at one stage, base included; `matches.parquet` of one chain."""

    crosscoder_seed: int
    """Seed of the crosscoder."""
    stage: str
    """The stage whose decoder rows are compared."""
    latent: int
    """Index in the crosscoder, the same at all stages."""
    alive: bool
    """It fired often enough, see the table of crosscoders."""
    sae_latent: int | None
    """Its nearest latent in the SAE of the stage; null where none is alive."""
    cosine: float | None
    """Their cosine."""
    verdict: str | None
    """Of the crosscoder; null at base."""
    chain_verdict: str | None
    """Of the chain; null at base."""


class Agreement(NamedTuple):
    """One crosscoder beside one chain at one later stage t; counts are of alive latents of the crosscoder unless it is said."""

    run: str
    """RL run."""
    text: str
    """Text set, one that all stages read alike."""
    kind: str
    """Kind of the SAEs."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    crosscoder_seed: int
    """Seed of the crosscoder."""
    stage: str
    """t."""
    update: int
    """PPO updates behind it."""
    alive: int
    """Latents of the crosscoder that are alive."""
    cosine_base: float | None
    """Mean cosine with the partner at base, over those that are not new; null where there are none."""
    cosine: float | None
    """Mean cosine with the partner at t, over those that are not gone."""
    unmatched: int
    """Chain verdict `unmatched`."""
    replaced: int
    """Chain verdict `replaced`: what was there died and another was born under the same latent of the crosscoder."""
    judged: int
    """alive − unmatched − replaced: both give one of three verdicts."""
    born_born: int
    """Judged: `born` by the crosscoder, `born` by the chain; named so in all nine."""
    born_died: int
    """Crosscoder `born`, chain `died`."""
    born_shared: int
    """Crosscoder `born`, chain `shared`."""
    died_born: int
    """Crosscoder `died`, chain `born`."""
    died_died: int
    """Crosscoder `died`, chain `died`."""
    died_shared: int
    """Crosscoder `died`, chain `shared`."""
    shared_born: int
    """Crosscoder `shared`, chain `born`."""
    shared_died: int
    """Crosscoder `shared`, chain `died`."""
    shared_shared: int
    """Crosscoder `shared`, chain `shared`."""
    agreement: float | None
    """(born_born + died_died + shared_shared) / judged; mostly the shared, so read kappa; null where none is judged."""
    kappa: float | None
    """(agreement − expected) / (1 − expected), expected from the margins of the nine counts (Cohen 1960): 1 all agree, 0 no more
    than by chance; null where expected is 1: both call every latent the same."""
    chain_born: int
    """Latents of S_t that were born."""
    chain_born_found: int
    """Those of them that are the partner, above the bound, of a latent that the crosscoder calls `born`."""
    chain_died: int
    """Latents of S_0 that died."""
    chain_died_found: int
    """Those of them that are the partner of a latent that the crosscoder calls `died`."""
