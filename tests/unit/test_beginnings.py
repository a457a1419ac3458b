"""The beginning of a long text has the ids that the whole text begins with."""

import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from rankfleet.engine.text.beginnings import encode_beginnings, may_cut, window_end
from rankfleet.engine.text.text_encoder import TextEncoder
from tests.unit.fakes import BPE_TEXTS, bpe_tokenizer, word_tokenizer


def word_pieces() -> Tokenizer:
    """BERT's kind."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(BPE_TEXTS * 20, trainer)
    return tokenizer


@pytest.mark.parametrize(
    ("text", "start", "size", "end"),
    [
        ("one two three", 0, 100, 13),  # all of it
        ("one two three four five six", 0, 10, 7),  # before the last space of the second half
        ("one two three four five six", 7, 12, 18),
        (
            "one    two three",
            0,
            8,
            16,
        ),  # no cut within or before the spaces: doubled, to all of it
        ("abcdef   ghi jkl mno pqr", 0, 10, 6),  # before the first of several spaces
        ("abcdefghijklmno" * 4, 0, 10, 60),  # nowhere to cut
        ("abcde!\x1c ghi jkl mno pqr", 0, 10, 7),  # "!\x1c" may be one token
        ("犬は走る。猫は寝る。鳥は飛ぶ。" * 2, 0, 8, 5),  # after punctuation
        ("it's'a'b'c'd'e'f'g'h'i'j'k'l'm'n", 0, 8, 32),  # apostrophes may be contractions
    ],
)
def test_a_window_ends_at_the_last_boundary_of_its_second_half(text: str, start: int, size: int, end: int) -> None:
    assert window_end(text, start, size) == end


def long_text(rng: random.Random) -> str:
    words = [*" ".join(BPE_TEXTS).split(), "don't", "e\u0301", "\u0301x", "速い。茶色", "[SEP]", "a.b", "x'", "'s"]
    return "".join(
        rng.choice(words) + rng.choice([" ", " ", " ", "  ", "\n", "\n\n  ", "\u3000", "。", ". "]) for _ in range(2000)
    )


@pytest.mark.parametrize("kind", ["bpe", "bpe with spaces", "word pieces"])
def test_the_ids_of_a_beginning_are_those_that_the_whole_text_begins_with(kind: str) -> None:
    added = [AddedToken(" " * count, normalized=True) for count in range(2, 5)]
    encoder = TextEncoder(
        {"bpe": bpe_tokenizer, "bpe with spaces": lambda: bpe_tokenizer(added=added), "word pieces": word_pieces}[
            kind
        ]()
    )
    rng = random.Random(kind)
    texts = [long_text(rng) for _ in range(20)]
    whole = encoder.encode_documents(texts)
    for max_tokens in (1, 100, 1000):
        for (ids, all_of_it), expected in zip(encoder.encode_beginnings(texts, max_tokens), whole, strict=True):
            assert not all_of_it
            assert len(ids) == max_tokens
            assert np.array_equal(ids, expected[:max_tokens])
    for (ids, all_of_it), expected in zip(encoder.encode_beginnings(texts, 50_000), whole, strict=True):
        assert all_of_it
        assert np.array_equal(ids, expected)


def test_only_as_many_characters_as_needed_are_encoded() -> None:
    seen = []

    def encode(texts: list[str]) -> list[np.ndarray]:
        seen.append([len(text) for text in texts])
        return [np.arange(len(text.split())) for text in texts]

    short, long = "a few words", "word " * 100_000
    (first, whole), (second, all_of_it) = encode_beginnings(encode, [short, long], 100)
    assert (len(first), whole) == (3, True)
    assert (len(second), all_of_it) == (100, False)
    # 100 tokens of 5 characters, and 256 more; a word and its space are 5 characters here
    assert seen == [[11, 754]]


def test_a_window_with_too_few_tokens_is_followed_by_another() -> None:
    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.arange(len(text) // 100) for text in texts]

    [(ids, whole)] = encode_beginnings(encode, ["word " * 1000], 20)
    assert (len(ids), whole) == (20, False)


def test_which_tokenizers_may_be_cut() -> None:
    def settings(tokenizer: Tokenizer) -> dict:
        return json.loads(tokenizer.to_str())

    assert may_cut(settings(bpe_tokenizer()))
    assert may_cut(settings(word_pieces()))
    assert not may_cut(settings(bpe_tokenizer(normalizer=normalizers.NFKC())))
    assert not may_cut(settings(bpe_tokenizer(add_prefix_space=True)))
    assert not may_cut(settings(bpe_tokenizer(added=[AddedToken("[X]", rstrip=True)])))
    assert not may_cut(settings(bpe_tokenizer(added=["two words"])))
    assert [whole for _, whole in word_tokenizer().encoder.encode_beginnings(["a " * 5000], 5)] == [True]


def test_a_text_without_any_boundary_is_not_read_to_its_end() -> None:
    encoder = TextEncoder(word_pieces())
    text = "!" * 100_000
    (ids, whole), *_ = encoder.encode_beginnings([text], 512)
    assert (len(ids), whole) == (512, False)
    assert np.array_equal(ids, encoder.encode_documents([text[:600]])[0][:512])
    assert window_end(text, 0, 1000) == 33_768  # 32,768 more than asked for
    assert window_end(text, 50_000, 20_000) == 100_000
