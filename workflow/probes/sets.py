"""Feature sets as matrices over the steps: of features.h5, words of the steps, codes of step-level SAEs, and sets side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, hstack, issparse
from sklearn.feature_extraction.text import TfidfVectorizer

from workflow.config.section import ConfigError
from workflow.formats.probe_scores import family
from workflow.formats.step_codes import read_step_codes
from workflow.formats.step_features import StepFeatures
from workflow.probes.scaling import Matrix
from workflow.probes.steps import TRAIN, Steps, check_same_steps

WORDS, CHARACTERS = "words", "characters"
SURFACE_WORDS = "surface+words"
WORD = r"\d+|[^\W\d_]+|[^\w\s]"
"""Numbers, words and single signs: the default of scikit-learn drops digits and operators."""
ANYWHERE = ("surface", "logprob", "ssae", WORDS, CHARACTERS)
"""First words of sets that are of no layer."""


class FeatureSet(NamedTuple):
    """Features of every step."""

    name: str
    rows: Matrix
    """[step, width]; rows of steps without features are 0."""
    present: np.ndarray
    """[step], bool."""
    columns: Sequence[str] | None
    """What the columns are, where they have names."""

    @property
    def sparse(self) -> bool:
        """Whether zeros are left out."""
        return issparse(self.rows)


class FeatureSets:
    """The sets that one job fits probes to, each read when it is asked for."""

    def __init__(
        self, steps: Steps, features: StepFeatures, codes: Mapping[str, Path | str], *, layered: bool, wanted: Sequence[str] | None,
        most_words: int,
    ) -> None:  # fmt: skip
        """
        Args:
            steps: in their order.
            features: of one layer, of the same steps.
            codes: files of step codes by set name (`ssae.<chain>.seed_<seed>`).
            layered: the sets of that layer; else those that are of no layer.
            wanted: names; None: all there are.
            most_words: columns of `words` and `characters` at most.

        Raises:
            ConfigError: features of other steps.
        """
        check_same_steps(features, steps.table)
        self._steps, self._features, self._codes, self._most_words = steps, features, codes, most_words
        every = [*features.names, *codes, WORDS, CHARACTERS, *([SURFACE_WORDS] if "surface" in features.names else [])]
        asked = every if wanted is None else wanted
        self.names = [name for name in asked if of_layer(name) == layered]
        """Names of the sets."""

    def read(self, name: str) -> FeatureSet:
        """One set.

        Raises:
            ConfigError: there is none of that name.
        """
        if "+" in name:
            return _beside([self.read(part) for part in name.split("+")], name)
        if name in (WORDS, CHARACTERS):
            return self._texts(name)
        if name in self._codes:
            return self._step_codes(name)
        rows = self._features.matrix(name)[self._steps.places]
        if issparse(rows):
            return FeatureSet(name, rows, np.ones(rows.shape[0], bool), None)
        present = np.isfinite(rows).all(axis=1)
        return FeatureSet(name, np.where(present[:, None], rows, 0), present, None)

    def _texts(self, name: str) -> FeatureSet:
        texts = self._steps.table["text"].fillna("").to_numpy(str)
        units = {"token_pattern": WORD, "ngram_range": (1, 2)} if name == WORDS else {"analyzer": "char", "ngram_range": (2, 4)}
        reader = TfidfVectorizer(**units, max_features=self._most_words, min_df=2, lowercase=False, sublinear_tf=True)
        try:
            reader.fit(texts[self._steps.rows(TRAIN)])
        except ValueError:  # no word stands in two steps
            return FeatureSet(name, csr_array((len(texts), 1)), np.ones(len(texts), bool), ["(none)"])
        return FeatureSet(name, csr_array(reader.transform(texts)), np.ones(len(texts), bool), list(reader.get_feature_names_out()))

    def _step_codes(self, name: str) -> FeatureSet:
        read = read_step_codes(self._codes[name])
        if "trace" not in read.steps.column_names:
            raise ConfigError(f"{self._codes[name]} must tell the trace of each step; it does not. Delete it and run again.")
        there = pd.MultiIndex.from_arrays([read.steps["trace"].to_numpy(), read.steps["step"].to_numpy()])
        table = self._steps.table
        place = there.get_indexer(pd.MultiIndex.from_arrays([table["trace"], table["step"].to_numpy(np.int32)]))
        rows, present = csr_array(read.codes)[np.maximum(place, 0)], place >= 0
        rows.data = rows.data * np.repeat(present, np.diff(rows.indptr))
        rows.eliminate_zeros()
        return FeatureSet(name, rows, present, None)


def of_layer(name: str) -> bool:
    """Whether a set is of a layer: any part of it is."""
    return any(part.partition(".")[0] not in ANYWHERE for part in name.split("+"))


def is_baseline(name: str) -> bool:
    """Whether a set is none of codes that an SAE was trained for."""
    return family(name) != "sae"


def _beside(parts: list[FeatureSet], name: str) -> FeatureSet:
    present = np.logical_and.reduce([part.present for part in parts])
    columns = [
        f"{part.name}:{at if part.columns is None else part.columns[at]}" for part in parts for at in range(part.rows.shape[1])
    ]
    if any(part.sparse for part in parts):
        return FeatureSet(name, csr_array(hstack([part.rows for part in parts], format="csr")), present, columns)
    return FeatureSet(name, np.hstack([np.asarray(part.rows) for part in parts]), present, columns)
