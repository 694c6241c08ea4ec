"""features.h5: blocks come back as one file, the same however they were cut, and other files are refused."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_array
from small_step_table import block

from workflow.config.section import ConfigError
from workflow.formats.feature_pieces import Pieces, piece_file, write_piece
from workflow.formats.step_features import DENSE, SPARSE, StepBlock, StepFeatures, write_step_features

FACTS = {"run": "shared", "layer": 3}


def test_blocks_come_back_as_one_table(tmp_path: Path) -> None:
    blocks = [block(range(5)), block(range(5, 6)), block(range(6, 12))]
    told = write_step_features(tmp_path / "features.h5", blocks, facts=FACTS, of_sets={"dense.last": {"pooling": "last"}})
    assert told.steps == sum(len(one.steps["trace"]) for one in blocks)
    assert {name: (one.form, one.width) for name, one in told.sets.items()} == {
        "dense.last": (DENSE, 6),
        "sae.topk.max": (SPARSE, 6),
    }
    with StepFeatures(tmp_path / "features.h5") as found:
        assert found.names == ["dense.last", "sae.topk.max"]
        assert found.facts == {"artefact": "step_features", "version": 1, **FACTS}
        assert found.sets["dense.last"].facts == {"pooling": "last"}
        steps, dense, sparse = found.steps, found.matrix("dense.last"), found.matrix("sae.topk.max")
    assert steps["trace"].tolist() == [trace for one in blocks for trace in one.steps["trace"]]
    assert steps["tokens"].tolist() == [tokens for one in blocks for tokens in one.steps["tokens"]]
    assert np.array_equal(dense, np.vstack([one.sets["dense.last"] for one in blocks]))
    assert isinstance(sparse, csr_array)
    assert np.array_equal(sparse.toarray(), np.vstack([one.sets["sae.topk.max"].toarray() for one in blocks]))


def test_bytes_depend_on_the_steps_alone(tmp_path: Path) -> None:
    whole = block(range(8))
    cut = [whole_rows(whole, slice(0, 3)), whole_rows(whole, slice(3, None))]
    write_step_features(tmp_path / "a.h5", [whole], facts=FACTS)
    write_step_features(tmp_path / "b.h5", cut, facts=FACTS)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def whole_rows(whole: StepBlock, rows: slice) -> StepBlock:
    return StepBlock(
        {name: values[rows] for name, values in whole.steps.items()}, {name: one[rows] for name, one in whole.sets.items()}
    )


def test_kept_pieces_are_the_blocks(tmp_path: Path) -> None:
    blocks = [block(range(4)), block(range(4, 9))]
    for number, one in enumerate(blocks):
        write_piece(piece_file(tmp_path, number), one)
    write_step_features(tmp_path / "a.h5", blocks, facts=FACTS)
    write_step_features(tmp_path / "b.h5", Pieces(tmp_path, 2), facts=FACTS)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_texts_of_any_script_come_back(tmp_path: Path) -> None:
    one = block(range(2))
    one.steps["group"][0] = "группа"
    write_step_features(tmp_path / "features.h5", [one], facts=FACTS)
    with StepFeatures(tmp_path / "features.h5") as found:
        assert found.steps["group"].tolist() == one.steps["group"]


def test_no_steps_make_a_file(tmp_path: Path) -> None:
    write_step_features(tmp_path / "features.h5", [block(range(0))], facts=FACTS)
    with StepFeatures(tmp_path / "features.h5") as found:
        assert len(found.steps) == 0
        assert found.matrix("sae.topk.max").shape == (0, 6)


class Made:
    """So many blocks, each made when it is its turn."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[StepBlock]:
        return (block(range(40 * number, 40 * number + 40), width=512) for number in range(self._count))


def test_memory_does_not_grow_with_the_number_of_steps(tmp_path: Path) -> None:
    peaks = []
    for count in (3, 30):
        tracemalloc.start()
        write_step_features(tmp_path / "features.h5", Made(count), facts=FACTS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_blocks_must_be_alike(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Every block must have the sets"):
        write_step_features(tmp_path / "features.h5", [block(range(2)), block(range(2, 4), width=7)], facts=FACTS)
    one = block(range(3))
    one.sets["dense.last"] = one.sets["dense.last"][1:]
    with pytest.raises(ValueError, match=r"row for each of the 6 steps.*dense\.last"):
        write_step_features(tmp_path / "features.h5", [one], facts=FACTS)
    assert not (tmp_path / "features.h5").exists()


def test_a_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    write_step_features(tmp_path / "features.h5", [block(range(2))], facts=FACTS)
    with StepFeatures(tmp_path / "features.h5") as found, pytest.raises(ConfigError, match=r"holds dense\.last, sae\.topk\.max"):
        found.matrix("sae.relu.max")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    write_step_features(path, [block(range(30))], facts=FACTS)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigError, match=r"whole features\.h5.*Delete it and run again"):
        StepFeatures(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file.attrs["version"] = 1
    with pytest.raises(ConfigError, match=r"found artefact and version \(None, 1\), without problem"):
        StepFeatures(path)
    path.write_text("steps")
    with pytest.raises(ConfigError, match="Delete it and run again"):
        StepFeatures(path)
