"""Settings of a planted world, checked when they are made."""

from dataclasses import dataclass

from sae_core.planted.events import Born, Died, Event, Merge, Split


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A world: rows are sparse sums of planted directions, an offset and noise, on prompts that differ in what they activate."""

    seed: int = 0
    """Of everything random; worlds of two seeds have nothing in common."""

    run: int = 0
    """Runs of one seed share base, texts and which direction has which event; how it turns and later noise are their own."""

    d_model: int = 32
    """Width of a row."""

    directions: int = 48
    """Planted directions, unborn ones included."""

    hops: int = 3
    """Stages behind base."""

    prompts: int = 200
    """Prompts of each part: of a hop's training rows, of the held-out rows."""

    rows_per_prompt: int = 20
    """Rows of each prompt."""

    active: float = 3.5
    """Directions active on a row, on average, if none were unborn and no rate met its ceiling of 1."""

    rate_exponent: float = 0.6
    """Rates fall with the rank of a direction to the power of minus this."""

    clustering: float | None = 0.7
    """Shape of the gamma distribution, of mean 1, that multiplies rates, for each direction and prompt; None: prompts are alike."""

    amplitudes: tuple[float, float] = (1.0, 2.0)
    """Activations are uniform between these."""

    noise: float = 0.05
    """Standard deviation of each element, drawn afresh at every stage."""

    offset: float = 0.5
    """Added to every element at every stage."""

    events: tuple[Event, ...] = ()
    """What happens to planted directions, chosen at random; those without an event stay."""

    mean_shift: float = 0.0
    """Length by which the offset moves per stage, always in one direction."""

    sink_every: int = 0
    """One in so many rows, the same at every stage, is a sink: one fixed vector; 0: none."""

    sink_multiple: float = 100.0
    """Norm of a sink over the typical norm of a row."""

    hidden_dims: int = 0
    """Dimensions in which no planted direction lies, an even number; half of them carry a dense Gaussian signal at base."""

    hidden_size: float = 0.05
    """Standard deviation of that signal per dimension; near `noise` no latent is worth spending on it."""

    hidden_angle: float = 0.0
    """Radians per stage by which it turns towards the other half: drift of which no reconstruction error tells."""

    paired: bool = True
    """Every stage reads the same text: prompts, active rows and activations are equal but for events. Otherwise each its own."""

    kl_noise: float = 1.0
    """τ of the KL proxy E‖x_t − x_0‖²/(2τ²), that between Gaussian channels of this standard deviation that read the rows."""

    def __post_init__(self) -> None:
        for name in ("d_model", "directions", "hops", "prompts", "rows_per_prompt", "active", "kl_noise"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)}. Raise it.")
        if self.clustering is not None and not self.clustering > 0:
            raise ValueError(f"clustering must be above 0, or None; got {self.clustering}. Raise it.")
        if (planned := sum(event.directions for event in self.events)) > self.directions:
            raise ValueError(
                f"Events must not happen to more than all directions = {self.directions}; they are planned for {planned}. "
                "Raise directions or plan fewer."
            )
        for event in self.events:
            if isinstance(event, Born | Died | Split | Merge) and not 1 <= event.at <= self.hops:
                raise ValueError(
                    f"{event.label} must happen at a stage behind base, 1 to hops = {self.hops}; got {event.at}. Move it."
                )
        if self.hidden_dims % 2 or not 0 <= self.hidden_dims <= self.d_model - 2:
            raise ValueError(
                f"hidden_dims must be even and leave two of d_model = {self.d_model}; got {self.hidden_dims}. Change it."
            )
        if self.sink_every == 1 or self.sink_every < 0:
            raise ValueError(f"sink_every must be 0, or at least 2; got {self.sink_every}. Leave rows that are no sinks.")
