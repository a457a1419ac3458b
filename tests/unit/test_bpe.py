"""Through tiktoken the ids are those of `tokenizers`, or tiktoken is not used."""

import json
import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from rankfleet.engine.text.bpe import NotByteLevel, alternation, byte_ranks, bytes_of_letters
from rankfleet.engine.text.probes import probe_texts
from rankfleet.engine.text.text_encoder import TextEncoder
from tests.unit.fakes import BPE_TEXTS, bpe_tokenizer, word_tokenizer

# Not part of the project, as it belongs to others.
SHARED = Path(os.environ.get("RANKFLEET_SHARED", Path(__file__).parents[3] / "shared"))
MODERNBERT = SHARED / "data/tokenizer/modernbert_tokenizer.json"
BLANKS = [AddedToken(" " * count, normalized=True) for count in range(2, 9)]


def own_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def fast_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encoder = TextEncoder(tokenizer)
    assert encoder.backend == "tiktoken"
    return [ids.tolist() for ids in encoder.encode_documents(texts)]


def any_characters(deal: random.Random) -> str:
    """Characters from all over Unicode, in clusters as scripts come."""
    starts = [deal.choice((0x20, 0x20, 0xA0, 0x300, 0x600, 0x900, 0x1100, 0x3040, 0xAC00, 0xFE00, 0x1F600, 0x16D60))]
    starts += [deal.randrange(0x20, 0x30000) for _ in range(3)]
    codes = [start + deal.randrange(96) for start in starts for _ in range(deal.randrange(12))]
    deal.shuffle(codes)
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def words_and_blanks(deal: random.Random) -> str:
    words = " ".join(BPE_TEXTS).split()
    blanks = [" ", " ", " ", "  ", "   ", "\n", "\n\n    ", "\t", "\u3000", ""]
    return "".join(deal.choice(words) + deal.choice(blanks) for _ in range(deal.randrange(40)))


def letters(deal: random.Random) -> str:
    """Few letters, so that many merges are possible at every place."""
    return "".join(deal.choices("eatsr ht'd", k=deal.randrange(120)))


@pytest.mark.parametrize("make", [any_characters, words_and_blanks, letters], ids=lambda make: make.__name__)
@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, None], ids=["nfc", "as it is"])
def test_ids_are_those_of_tokenizers(make: Callable[[random.Random], str], normalizer: dict | None) -> None:
    settings = json.loads(bpe_tokenizer(added=BLANKS).to_str()) | {"normalizer": normalizer}
    tokenizer = Tokenizer.from_str(json.dumps(settings))
    deal = random.Random(make.__name__)
    texts = [make(deal) for _ in range(1000)]
    texts += [unicodedata.normalize("NFD", text) for text in texts[:200]]
    assert fast_ids(tokenizer, texts) == own_ids(tokenizer, texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[SEP]",
        "a [MASK] b",
        "a   [MASK]b",
        "[CLS][SEP]x[unused1]",
        "x[SEP\u0338]",
        "a   b     c         d          ",
        "\x1e",
        "\x1e000 \x1e001",
        "a\x1e000b",
        "e\u0301 \u0323\u0307 \u0307\u0323",
        "\ud7a3\u11a8 \u1112\u1161\u11ab",
        "we'll we'Ll 'tis don't'",
        "\x00\x01\x02",
        " \u00a0\u2003 \u3000",
    ],
)
def test_what_is_special_in_a_text(text: str) -> None:
    tokenizer = bpe_tokenizer(added=[*BLANKS, AddedToken("[unused1]", normalized=True)])
    texts = ["plain", text, "café", text + text]
    assert fast_ids(tokenizer, texts) == own_ids(tokenizer, texts)
    assert fast_ids(tokenizer, [text]) == own_ids(tokenizer, [text])


def test_no_texts_no_ids() -> None:
    assert fast_ids(bpe_tokenizer(), []) == []


def test_special_tokens_in_a_text_are_what_the_checkpoint_says() -> None:
    # The special tokens are 0 to 4, bytes come after them in the order of their letters: "a" is the 65th from "!".
    assert fast_ids(bpe_tokenizer(), ["a[SEP]a", "!"]) == [[5 + 64, 2, 5 + 64], [5]]


def backend(tokenizer: Tokenizer) -> str:
    return TextEncoder(tokenizer).backend


def test_other_kinds_are_left_to_tokenizers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert word_tokenizer().encoder.backend == "tokenizers"
    assert backend(bpe_tokenizer(add_prefix_space=True)) == "tokenizers"
    assert backend(bpe_tokenizer(normalizer=normalizers.NFKC())) == "tokenizers"
    other = bpe_tokenizer()
    other.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    assert backend(other) == "tokenizers"
    assert "its normalizer is NFKC" in caplog.text


def test_a_tokenizer_that_differs_in_what_cannot_be_read_off_fails_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankfleet.engine.text.bpe.PATTERN", r" ?\p{L}+| ?[^\s\p{L}]+|\s+")  # digits beside marks
    assert backend(bpe_tokenizer()) == "tokenizers"


def test_a_vocabulary_whose_merges_do_not_reach_a_token_is_refused() -> None:
    letters = [*bytes_of_letters()]
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"ab": 256, "bc": 257, "abc": 258}
    fine = {"vocab": vocabulary, "merges": [["a", "b"], ["b", "c"], ["ab", "c"]]}
    ranks, ids = byte_ranks(fine)
    assert (ranks[b"ab"], ranks[b"bc"], ranks[b"abc"]) == (256, 257, 258)
    assert ids[ranks[b"abc"]] == 258
    # "abc" alone begins with a + b and ends as [ab, c]: the merge a + bc is never reached, but tiktoken, which
    # merges whatever makes a token, would find "abc".
    with pytest.raises(NotByteLevel, match="'abc' is not reached"):
        byte_ranks({"vocab": vocabulary, "merges": [["a", "b"], ["b", "c"], ["a", "bc"]]})
    with pytest.raises(NotByteLevel, match="lacks the byte 0x61"):
        byte_ranks({"vocab": {k: v for k, v in vocabulary.items() if k != "a"}, "merges": []})


def test_the_longest_added_token_wins() -> None:
    pattern = alternation(["  ", "    ", "   ", "[a]", "[ab]"])
    assert pattern is not None
    assert pattern.findall("x     y [ab] [a]  ") == ["    ", "[ab]", "[a]", "  "]
    assert alternation([]) is None


def test_encoders_of_one_vocabulary_are_one() -> None:
    tokenizer = bpe_tokenizer()
    again = Tokenizer.from_str(tokenizer.to_str())
    encoder = TextEncoder.shared(tokenizer)
    assert TextEncoder.shared(again) is encoder
    assert TextEncoder.shared(bpe_tokenizer(added=["zz"])) is not encoder


def test_probes_are_always_the_same() -> None:
    assert probe_texts(["[X]"]) == probe_texts(["[X]"])
    assert any("[X]" in text for text in probe_texts(["[X]"]))


@pytest.mark.skipif(not MODERNBERT.exists(), reason="needs ModernBERT's tokenizer; set RANKFLEET_SHARED to its folder")
class TestModernBert:
    def test_ids_are_those_of_tokenizers(self) -> None:
        tokenizer = Tokenizer.from_file(str(MODERNBERT))
        encoder = TextEncoder(tokenizer)
        assert encoder.backend == "tiktoken"
        deal = random.Random(12)
        texts = [make(deal) for make in (any_characters, words_and_blanks, letters) for _ in range(700)]
        assert [ids.tolist() for ids in encoder.encode_documents(texts)] == own_ids(tokenizer, texts)

    def test_every_character_in_every_place(self) -> None:
        """Letters, digits and blanks are the same to both: a sample of all characters, spread evenly."""
        tokenizer = Tokenizer.from_file(str(MODERNBERT))
        characters = [chr(code) for code in range(0x21, 0x110000, 67) if not 0xD800 <= code < 0xE000]
        texts = [f"a{c}a1{c}1!{c}! {c} {c}{c}" for c in characters]
        assert np.array_equal(
            np.concatenate(TextEncoder(tokenizer).encode_documents(texts)), np.concatenate(own_ids(tokenizer, texts))
        )
