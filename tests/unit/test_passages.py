import itertools

import numpy as np
import pytest

from rankfleet.core.passages import PassageRule, max_passages, truncate


def spans(
    query: int, documents: list[int], limit: int, overlap: int, passages: int = 16
) -> list[list[tuple[int, int]]]:
    layout = max_passages(query, np.array(documents), limit, PassageRule(overlap, passages))
    found: list[list[tuple[int, int]]] = [[] for _ in documents]
    for owner, start, stop in zip(layout.owners, layout.starts, layout.stops, strict=True):
        found[owner].append((int(start), int(stop)))
    return found


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (0, [(0, 0)]),
        (10, [(0, 10)]),  # just fits beside a query of 2 in 12
        (11, [(0, 7), (5, 11)]),  # 11 and 2 shared: 7 + 6
        (18, [(0, 10), (8, 18)]),
        (19, [(0, 8), (6, 14), (12, 19)]),  # 19 and 4 shared: 8 + 8 + 7
        (26, [(0, 10), (8, 18), (16, 26)]),
    ],
)
def test_passages_are_about_equal_and_overlap(document: int, expected: list[tuple[int, int]]) -> None:
    assert spans(2, [document], limit=12, overlap=2) == [expected]


def test_text_beyond_the_last_passage_is_cut() -> None:
    layout = max_passages(2, np.array([5, 26, 27, 1000]), 12, PassageRule(2, max_passages=3))
    assert layout.counts.tolist() == [1, 3, 3, 3]
    assert layout.truncated == [2, 3]
    assert layout.stops.tolist() == [5, 10, 18, 26, 10, 18, 26, 10, 18, 26]


def test_the_overlap_is_at_most_half_of_the_room() -> None:
    assert spans(8, [12], limit=12, overlap=32) == [[(0, 6), (3, 9), (6, 12)]]


def test_every_token_is_in_a_passage_and_none_is_too_long() -> None:
    for document in range(1, 400):
        for room, overlap in ((7, 0), (7, 3), (20, 5), (64, 32)):
            (found,) = spans(3, [document], room + 3, overlap, passages=1000)
            assert found[0][0] == 0
            assert found[-1][1] == document
            assert all(0 < stop - start <= room for start, stop in found)
            for (_, stop), (start, last) in itertools.pairwise(found):
                assert stop - start == overlap
                assert last > stop  # each has something of its own


def test_a_query_that_is_too_long_is_cut_to_half_and_its_documents_are_reported() -> None:
    layout = max_passages(30, np.array([3, 20]), 10, PassageRule(1, 16))
    assert layout.query.tolist() == [7, 5, 5, 5, 5, 5]
    assert layout.counts.tolist() == [1, 5]
    assert layout.truncated == [0, 1]


def test_truncating_keeps_one_pair_per_document() -> None:
    layout = truncate(4, np.array([3, 9, 0]), 10)
    assert layout.stops.tolist() == [3, 6, 0]
    assert layout.counts.tolist() == [1, 1, 1]
    assert layout.tokens.tolist() == [7, 10, 4]
    assert layout.truncated == [1]


def test_a_document_scores_as_its_best_passage() -> None:
    layout = max_passages(2, np.array([5, 26, 11]), 12, PassageRule(2, 16))
    logits = np.array([1.0, -3.0, 4.0, 2.0, -5.0, -6.0], dtype=np.float32)
    assert layout.best(logits).tolist() == [1.0, 4.0, -5.0]
    assert truncate(2, np.array([5, 5]), 12).best(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_passages_that_are_cut_keep_their_beginning_and_their_number() -> None:
    # Two passages of 30 tokens beside a query of 4, and a short document.
    layout = max_passages(4, np.array([60, 5]), 34, PassageRule(0, 16))
    assert (layout.starts.tolist(), layout.stops.tolist()) == ([0, 30, 0], [30, 60, 5])
    cut = layout.cut(20)
    assert (cut.query.tolist(), cut.starts.tolist(), cut.stops.tolist()) == ([4, 4, 4], [0, 30, 0], [16, 46, 5])
    assert (cut.counts.tolist(), cut.truncated) == ([2, 1], [0])
    assert layout.truncated == []


def test_cutting_twice_is_cutting_once() -> None:
    lengths = np.array([1, 9, 10, 11, 30, 200])
    for query in (1, 5, 12, 40):
        direct = truncate(query, lengths, 20)
        again = truncate(query, lengths, 41).cut(20)
        assert (again.query.tolist(), again.stops.tolist()) == (direct.query.tolist(), direct.stops.tolist())
        assert again.truncated == direct.truncated


def test_texts_whose_left_side_is_cut_off_keep_their_end() -> None:
    layout = truncate(4, np.array([3, 9]), 10, "left")
    assert (layout.starts.tolist(), layout.stops.tolist(), layout.truncated) == ([0, 3], [3, 9], [1])
    cut = layout.cut(6)
    assert (cut.query.tolist(), cut.starts.tolist(), cut.stops.tolist()) == ([3, 3], [0, 6], [3, 9])
    # Room for 10 tokens beside the query: two passages of 10 leave the first 6 of 26 out, and nothing of 11.
    split = max_passages(2, np.array([26, 11]), 12, PassageRule(0, 2), "left")
    assert (split.starts.tolist(), split.stops.tolist()) == ([6, 16, 0, 6], [16, 26, 6, 11])
    assert split.truncated == [0]
    assert (split.cut(6).starts.tolist(), split.cut(6).stops.tolist()) == ([12, 22, 2, 7], [16, 26, 6, 11])
