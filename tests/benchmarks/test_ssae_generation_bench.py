"""The benchmark of writing steps compares two ways to the same tokens."""

from benchmarks.bench_ssae_generation import check_agreement, contexts_of, ours, published, random_codes, small_ssae


def test_both_write_the_same_tokens_and_none_ends_early() -> None:
    check_agreement()
    model, contexts = small_ssae(), contexts_of(3, 500)
    written, seconds = ours(model, random_codes(3, model.d_code), contexts, 6)
    assert [len(row) for row in written] == [6, 6, 6]
    assert seconds > 0


def test_the_comparison_would_see_another_code_and_another_context() -> None:
    model, contexts = small_ssae(), contexts_of(4, 500)
    codes = random_codes(4, model.d_code)
    sequences = [[*context, 499] for context in contexts]
    mine = ours(model, codes, contexts, 8)[0]
    assert published(model, codes, sequences, 8) == mine
    assert published(model, codes.flip(0), sequences, 8) != mine
    assert published(model, codes, [sequence[1:] for sequence in sequences], 8) != mine
