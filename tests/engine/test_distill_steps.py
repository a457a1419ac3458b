"""Micro-batches by length within a step that is drawn at random."""

import pytest

pytest.importorskip("sentence_transformers")

from rankfleet.distill.steps import ByLength, by_length

LENGTHS = [50, 10, 40, 30, 20, 60, 70]


def test_the_pairs_of_a_step_are_cut_into_micro_batches_by_length() -> None:
    batches = list(ByLength(LENGTHS, steps_of=7, micro=3, seed=1))
    assert batches == [[1, 4, 3], [2, 0, 5], [6]]  # 10, 20, 30 | 40, 50, 60 | 70


def test_every_pair_is_in_one_step_which_is_drawn_at_random() -> None:
    sampler = ByLength(range(100), steps_of=20, micro=10, seed=1)
    batches = list(sampler)
    steps = [first + second for first, second in zip(batches[::2], batches[1::2], strict=True)]
    assert sorted(i for step in steps for i in step) == list(range(100))
    assert all(step == sorted(step) for step in steps)
    assert all(max(step) - min(step) > 50 for step in steps)  # not the pairs of one length


def test_an_epoch_has_an_order_of_its_own_and_the_same_one_again() -> None:
    sampler = ByLength(range(100), steps_of=20, micro=10, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize(("pairs", "micro_batches"), [(20, 2), (21, 3), (30, 3), (31, 4), (40, 4), (5, 1)])
def test_its_length_is_the_number_of_micro_batches(pairs: int, micro_batches: int) -> None:
    sampler = ByLength(range(pairs), steps_of=20, micro=10, seed=1)
    assert len(sampler) == len(list(sampler)) == micro_batches


def test_a_pair_is_as_long_as_its_two_texts() -> None:
    dataset = {"query": ["aaaa", "a", "aa"], "document": ["b", "bb", "bbbbbb"]}
    sampler = by_length(3)(dataset, batch_size=2, seed=1, drop_last=False, generator=None)
    assert list(sampler) == [[1, 0], [2]]
