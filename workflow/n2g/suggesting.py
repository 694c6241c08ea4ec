"""Which other tokens are tried in the place of an important one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.batching import batches, padded
from workflow.config.n2g import N2gConfig
from workflow.n2g.contexts import Firing
from workflow.n2g.vocabulary import Vocabulary, nearest
from workflow.n2g.windows import Window

MORE = 2
"""Of a class, whose members are drawn, so many more are tried: whether most of them hold must be told."""


class Suggest(Protocol):
    """Finds tokens like one that stands in a context."""

    def __call__(self, asked: Sequence[tuple[Window, int]], count: int) -> list[list[int]]:
        """For each (tokens, place) up to `count` other tokens for that place."""
        ...


def tried_tokens(
    tokens: Mapping[Firing, Window], important: Mapping[Firing, Sequence[int]], vocabulary: Vocabulary, settings: N2gConfig,
    suggest: Suggest,
) -> dict[Firing, dict[int, list[int]]]:  # fmt: skip
    """By firing and important place, the tokens to try: random others of its class, else what is suggested."""
    found: dict[Firing, dict[int, list[int]]] = {firing: {} for firing in tokens}
    open_places: list[tuple[Firing, int]] = []
    for firing, places in important.items():
        for at in places:
            token = tokens[firing][at]
            if name := vocabulary.class_of(token):
                back = len(tokens[firing]) - at
                others = _others(vocabulary, name, token)
                draw = np.random.default_rng([settings.seed, firing[0], back, 1])
                found[firing][at] = draw.permutation(others)[: settings.substitutes + MORE].tolist()
            else:
                open_places.append((firing, at))
    suggested = suggest([(tokens[firing], at) for firing, at in open_places], settings.substitutes)
    for (firing, at), others in zip(open_places, suggested, strict=True):
        found[firing][at] = others
    return found


def _others(vocabulary: Vocabulary, name: str, token: int) -> np.ndarray:
    """Members of the token's class of the same form (a blank in front or none, as many characters), else all."""
    form = vocabulary.texts[token]
    members = [other for other in np.flatnonzero(vocabulary.members[name]).tolist() if other != token]
    alike = [
        other for other in members
        if len(vocabulary.texts[other]) == len(form) and vocabulary.texts[other][:1].isspace() == form[:1].isspace()
    ]  # fmt: skip
    return np.array(alike or members, dtype=np.int64)


class Neighbours:
    """Tokens of the text whose input embeddings are nearest."""

    def __init__(self, model: PreTrainedModel, tokens: np.ndarray) -> None:
        """`tokens`: of the text."""
        self._model, self._among, self._known = model, np.unique(tokens), dict[int, list[int]]()

    def __call__(self, asked: Sequence[tuple[Window, int]], count: int) -> list[list[int]]:
        """Up to `count` neighbours for each place."""
        new = sorted({tokens[at] for tokens, at in asked} - self._known.keys())
        if new:
            self._known |= nearest(self._model, np.array(new), self._among, count)
        return [self._known[tokens[at]][:count] for tokens, at in asked]


class Likeliest:
    """What the policy finds most likely behind the tokens in front; the first place of a context has no suggestion."""

    def __init__(self, model: PreTrainedModel, batch_tokens: int) -> None:
        self._model, self._batch_tokens = model, batch_tokens

    @torch.inference_mode()
    def __call__(self, asked: Sequence[tuple[Window, int]], count: int) -> list[list[int]]:
        """Up to `count` likely tokens for each place."""
        found: list[list[int]] = [[] for _ in asked]
        inner = [one for one, (_, at) in enumerate(asked) if at > 0]
        model: Any = self._model
        sizes = [asked[one][1] for one in inner]
        for batch in batches(range(len(inner)), sizes, self._batch_tokens):
            fronts = [asked[inner[one]][0][: sizes[one]] for one in batch]
            ids = torch.from_numpy(padded(fronts)).to(model.device)
            last = torch.tensor([len(front) - 1 for front in fronts])
            logits = model(input_ids=ids, use_cache=False).logits[torch.arange(len(batch)), last]
            for one, best in zip(batch, logits.topk(count + 1, dim=1).indices.tolist(), strict=True):
                tokens, at = asked[inner[one]]
                found[inner[one]] = [token for token in best if token != tokens[at]][:count]
        return found
