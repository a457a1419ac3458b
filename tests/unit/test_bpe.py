"""With tiktoken the ids are those of `tokenizers`; otherwise tiktoken is not used."""

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

# Not part of the repository: it is another project's file.
SHARED = Path(os.environ.get("RANKFLEET_SHARED", Path(__file__).parents[3] / "shared"))
MODERNBERT = SHARED / "data/tokenizer/modernbert_tokenizer.json"
SPACES = [AddedToken(" " * count, normalized=True) for count in range(2, 9)]


def own_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def fast_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encoder = TextEncoder(tokenizer)
    assert encoder.backend == "tiktoken"
    return [ids.tolist() for ids in encoder.encode_documents(texts)]


def any_characters(rng: random.Random) -> str:
    """Characters from all over Unicode, in clusters as scripts come."""
    starts = [rng.choice((0x20, 0x20, 0xA0, 0x300, 0x600, 0x900, 0x1100, 0x3040, 0xAC00, 0xFE00, 0x1F600, 0x16D60))]
    starts += [rng.randrange(0x20, 0x30000) for _ in range(3)]
    codes = [start + rng.randrange(96) for start in starts for _ in range(rng.randrange(12))]
    rng.shuffle(codes)
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def words_and_spaces(rng: random.Random) -> str:
    words = " ".join(BPE_TEXTS).split()
    spaces = [" ", " ", " ", "  ", "   ", "\n", "\n\n    ", "\t", "\u3000", ""]
    return "".join(rng.choice(words) + rng.choice(spaces) for _ in range(rng.randrange(40)))


def letters(rng: random.Random) -> str:
    """Few letters, so that many merges are possible everywhere."""
    return "".join(rng.choices("eatsr ht'd", k=rng.randrange(120)))


@pytest.mark.parametrize("make", [any_characters, words_and_spaces, letters], ids=lambda make: make.__name__)
@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, None], ids=["nfc", "as it is"])
def test_ids_are_those_of_tokenizers(make: Callable[[random.Random], str], normalizer: dict | None) -> None:
    settings = json.loads(bpe_tokenizer(added=SPACES).to_str()) | {"normalizer": normalizer}
    tokenizer = Tokenizer.from_str(json.dumps(settings))
    rng = random.Random(make.__name__)
    texts = [make(rng) for _ in range(1000)]
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
def test_texts_with_special_characters_get_the_ids_of_tokenizers(text: str) -> None:
    tokenizer = bpe_tokenizer(added=[*SPACES, AddedToken("[unused1]", normalized=True)])
    texts = ["plain", text, "café", text + text]
    assert fast_ids(tokenizer, texts) == own_ids(tokenizer, texts)
    assert fast_ids(tokenizer, [text]) == own_ids(tokenizer, [text])


def test_no_texts_give_no_ids() -> None:
    assert fast_ids(bpe_tokenizer(), []) == []


def test_a_special_token_in_a_text_gets_its_own_id() -> None:
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


def test_a_tokenizer_with_another_pattern_fails_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_one_vocabulary_has_one_shared_encoder() -> None:
    tokenizer = bpe_tokenizer()
    again = Tokenizer.from_str(tokenizer.to_str())
    encoder = TextEncoder.shared(tokenizer)
    assert TextEncoder.shared(again) is encoder
    assert TextEncoder.shared(bpe_tokenizer(added=["zz"])) is not encoder


def test_probes_are_deterministic_and_contain_added_tokens() -> None:
    assert probe_texts(["[X]"]) == probe_texts(["[X]"])
    assert any("[X]" in text for text in probe_texts(["[X]"]))


@pytest.mark.skipif(not MODERNBERT.exists(), reason="needs ModernBERT's tokenizer; set RANKFLEET_SHARED to its folder")
class TestModernBert:
    def test_ids_are_those_of_tokenizers(self) -> None:
        tokenizer = Tokenizer.from_file(str(MODERNBERT))
        encoder = TextEncoder(tokenizer)
        assert encoder.backend == "tiktoken"
        rng = random.Random(12)
        texts = [make(rng) for make in (any_characters, words_and_spaces, letters) for _ in range(700)]
        assert [ids.tolist() for ids in encoder.encode_documents(texts)] == own_ids(tokenizer, texts)

    def test_characters_next_to_letters_digits_and_spaces_get_the_same_ids(self) -> None:
        """A sample of all characters, spread evenly."""
        tokenizer = Tokenizer.from_file(str(MODERNBERT))
        characters = [chr(code) for code in range(0x21, 0x110000, 67) if not 0xD800 <= code < 0xE000]
        texts = [f"a{c}a1{c}1!{c}! {c} {c}{c}" for c in characters]
        assert np.array_equal(
            np.concatenate(TextEncoder(tokenizer).encode_documents(texts)), np.concatenate(own_ids(tokenizer, texts))
        )
