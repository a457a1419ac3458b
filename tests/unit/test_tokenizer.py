import subprocess
import sys

import numpy as np
import pytest

from rankfleet.core.passages import longest_first
from rankfleet.engine.text import text_encoder
from rankfleet.engine.text.pair_template import PairTemplate
from tests.unit.fakes import word_tokenizer


@pytest.mark.parametrize(
    ("first", "second", "limit", "kept"),
    [
        (3, 4, 10, (3, 4)),
        (3, 20, 10, (3, 7)),  # only the longer gives way
        (20, 3, 10, (7, 3)),
        (20, 30, 10, (5, 5)),  # both above half
        (20, 30, 11, (5, 6)),
        (30, 20, 11, (6, 5)),
        (5, 6, 11, (5, 6)),
    ],
)
def test_truncation_shortens_the_longer_text_first(first: int, second: int, limit: int, kept: tuple[int, int]) -> None:
    one, other = longest_first(first, np.array([second]), limit)
    assert (one.tolist(), other.tolist()) == ([kept[0]], [kept[1]])


def test_the_template_is_read_off_the_tokenizer() -> None:
    assert word_tokenizer().template == PairTemplate([1], [2], [2])


def test_pairs_are_laid_out_end_to_end() -> None:
    tokenizer = word_tokenizer()
    query, *documents = tokenizer.encode(["cat", "a dog", ""])
    pairs, truncated = tokenizer.pair(query, documents)
    # a=3 cat=4 dog=5
    assert pairs.ids.tolist() == [1, 4, 2, 3, 5, 2, 1, 4, 2, 2]
    assert pairs.lengths.tolist() == [6, 4]
    assert pairs.document_offsets.tolist() == [3, 3]
    assert truncated == []


def test_documents_that_do_not_fit_are_cut_and_reported() -> None:
    tokenizer = word_tokenizer(max_tokens=8)
    query, *documents = tokenizer.encode(["cat sat", "dog", "a dog is an animal"])
    pairs, truncated = tokenizer.pair(query, documents)
    assert truncated == [1]
    assert pairs.lengths.tolist() == [6, 8]
    shorter, truncated = tokenizer.pair(query, documents, max_tokens=6)
    assert shorter.lengths.tolist() == [6, 6]
    assert truncated == [1]


def test_the_end_of_texts_is_kept_where_their_left_side_is_cut_off() -> None:
    tokenizer = word_tokenizer(max_tokens=8)
    query, *documents = tokenizer.encode(["cat sat on a mat", "a dog is an animal", "dog"])
    layout = tokenizer.layout(query, documents, cut_side="left")
    pairs = tokenizer.build_pairs(query, documents, layout)
    # on a=3 mat=13 [SEP] … an animal; on a mat: the last 2 of five and 3 of five, then 4 and 1.
    assert pairs.ids.tolist() == [1, 3, 13, 2, 7, 8, 9, 2, 1, 11, 12, 3, 13, 2, 5, 2]
    assert pairs.document_offsets.tolist() == [4, 6]
    assert tokenizer.reach(query, cut_side="left") > 10**12, "all of a document"


@pytest.mark.parametrize(("words", "ids"), [(3, [3, 5, 7]), (4, [3, 5, 7, 2]), (5, [3, 5, 7, 2])])
def test_a_text_keeps_what_a_prompt_puts_behind_it(words: int, ids: list[int]) -> None:
    tokenizer = word_tokenizer()
    text = np.array([3, 5, 7, 8, 9][:words], dtype=np.int32)
    tokenizer.template = PairTemplate([1], [2], [2], truncated_end=[2, 2])  # a text is followed by one token of its own
    assert tokenizer.shortened(text, 3).tolist() == (text.tolist() if words <= 4 else ids)
    tokenizer.template = PairTemplate([1], [2], [2])
    assert tokenizer.shortened(text, 3).tolist() == [3, 5, 7]
    assert tokenizer.shortened(text, words) is text


def test_the_limit_can_be_lowered_but_not_raised() -> None:
    tokenizer = word_tokenizer(max_tokens=8)
    query, *documents = tokenizer.encode(["cat", "a dog " * 20])
    assert tokenizer.pair(query, documents, max_tokens=500)[0].lengths.tolist() == [8]


def test_identity_is_that_of_vocabulary_and_limit() -> None:
    assert word_tokenizer().identity == word_tokenizer().identity
    assert word_tokenizer(32).identity != word_tokenizer(64).identity


@pytest.mark.parametrize(
    ("limit", "lengths"),
    [  # 3 tokens of the template; a query of 2; documents of 0, 1, 5 and 50
        (None, [5, 6, 10, 12]),
        (8, [5, 6, 8, 8]),
        (6, [5, 6, 6, 6]),
        (4, [4, 4, 4, 4]),
    ],
)
def test_lengths_are_known_before_pairs_are_built(limit: int | None, lengths: list[int]) -> None:
    tokenizer = word_tokenizer(max_tokens=12)
    query, *documents = tokenizer.encode(["cat sat", "", "dog", "a dog is an animal", "sun " * 50])
    layout = tokenizer.layout(query, documents, limit)
    assert tokenizer.pair_lengths(layout).tolist() == lengths
    ids = tokenizer.build_pairs(query, documents, layout).ids
    pairs = np.split(ids, np.cumsum(lengths)[:-1])
    assert [(pair[0], pair[-1]) for pair in pairs] == [(1, 2)] * 4  # [CLS] and [SEP]
    assert [np.count_nonzero(pair == 2) for pair in pairs] == [2] * 4


def test_texts_are_encoded_in_slices_whose_results_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = word_tokenizer().encoder
    texts = ["cat", "a dog is an animal", "", "dog", "cat sat"]
    whole = [ids.tolist() for ids in encoder.encode_documents(texts)]
    calls: list[list[str]] = []
    own = encoder._encode_own
    monkeypatch.setattr(encoder, "_encode_own", lambda some: calls.append(some) or own(some))
    monkeypatch.setattr(text_encoder, "AT_ONCE", 6)
    assert [ids.tolist() for ids in encoder.encode_documents(texts)] == whole
    assert calls == [["cat"], ["a dog is an animal"], ["", "dog"], ["cat sat"]]
    assert encoder.encode_documents([]) == []


def test_texts_can_be_encoded_on_the_calling_thread_alone() -> None:
    # In a process of its own, since the threads that tokenizers starts stay.
    code = """
import os, sys
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from rankfleet.engine.text.text_encoder import TextEncoder, encode_on_calling_threads

def threads():
    return len(os.listdir("/proc/self/task"))

encoder, before = TextEncoder(Tokenizer(WordLevel({"a": 0}, "a"))), threads()
encode_on_calling_threads()
encoder.encode_documents(["a"] * 1000)
alone = threads() - before
os.environ["TOKENIZERS_PARALLELISM"] = "true"
encoder.encode_documents(["a"] * 1000)
print(alone, threads() - before > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
