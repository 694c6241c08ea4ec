"""What is refused of section `voting` before any job starts."""

from workflow.config.probe_study import every_pool
from workflow.config.section import ConfigError
from workflow.config.study import Study
from workflow.config.voting import PUBLISHED_SAMPLING


def check_voting(study: Study) -> None:
    """Refuse votes that the pools cannot give.

    Raises:
        ConfigError: no reported problems, more traces per vote than there are, or the preset on a pool that is sampled otherwise.
    """
    voting, pool = study.voting, study.traces.pool
    if not voting.enabled or not every_pool(study):
        return
    if not pool.problems.test:
        raise ConfigError(
            "traces.pool.problems.test must be above 0 where pools are voted on; got 0. Raise it, or set voting.enabled to false."
        )
    if (k := voting.counting()["k"] or 0) > pool.samples:
        raise ConfigError(
            f"traces.pool.samples must be at least the {k} traces of a vote; got {pool.samples}. Raise it, or lower voting.k"
            f"{'; a vote of the preset has as many' if voting.preset else ''}."
        )
    found = {name: getattr(pool, name) for name in PUBLISHED_SAMPLING}
    if voting.preset and found != PUBLISHED_SAMPLING:
        raise ConfigError(
            f"voting.preset: {voting.preset} must have traces.pool sampled at {_said(PUBLISHED_SAMPLING)}; got {_said(found)}. Set "
            "both, or set voting.preset to null."
        )


def _said(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
