"""Texts on which two tokenizers are compared, chosen where their rules or Unicode tables may differ."""

import random

SPACES = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u0085", "\u2003", "\u3000", "\u200b", "\ufeff",
]  # fmt: skip
PIECES = [
    "the", "Word", "x", "I'm", "don't", "we'll", "they've", "you're", "he'd", "it's", "'s", "'S", "'", "''", "O'r",
    "3.14159", "1,000", "²", "½", "Ⅷ", "٣", "१२", "a_b", "foo(bar)", "==", "->", "...", "—", "“q”", "$5", "%", "\\n",
    "http://a.b/c?d=e#f", "user@example.org", "{'k': [1]}", "[", "]", "<", ">", "|", "||", "|||", "[x]", "<|x|>",
    "naïve", "nai\u0308ve", "e\u0301", "\u0301", "\u0323\u0307", "\u0307\u0323", "Å", "\u212b", "\u2126", "ﬁ", "ß", "İ",
    "Бързата", "лисица", "Ελλάδα", "ὀξύ", "עִבְרִית", "العَرَبِيَّة", "हिन्दी", "ক্ষ", "தமிழ்", "ภาษาไทย", "한국어",
    "\u1112\u1161\u11ab", "速い茶色の狐", "が", "か\u3099", "中文，標點。", "\uf900", "𠮷", "𝔘𝔫𝔦", "😀", "👩‍👩‍👧", "🇧🇬",
    "👍🏽", "☃\ufe0f", "\u0897", "\u08c8",
    "\u1c89", "\ua7cb", "\u0c5d", "\U00011f02", "\U00010d4e", "\U0001e4d0", "\U000323b0", "\U00016d68\U00016d67",
    "\0", "\x01", "\x1c", "\x1e", "\x1e000", "\x7f", "\x85", "\u00ad", "\u200d", "\u202e", "\u2028", "\ufffd", "\ufdd0",
    "\ue000", "\U0010ffff", "aaaaaaaaaaaaaaaaaaaaaaaa", "!!!!!!!!", "abcabcabcabc", "0000000000000000",
]  # fmt: skip
PLAIN = [
    "",
    "The wing of an aircraft at supersonic speed heats the boundary layer.",
    "Patients were given the drug twice a day; 12% reported a headache!",
    "def rank(query, documents):\n    return sorted(\n        documents,\n        key=score)\n",
]
RANDOM_TEXTS = 150


def probe_texts(added: list[str]) -> list[str]:
    """Each piece alone and next to words and spaces, then random sequences of pieces, spaces and `added` tokens.

    Deterministic: the same texts for the same arguments.
    """
    rng = random.Random(12)
    pieces = [*PIECES, *added]
    texts = [*PLAIN, *SPACES, *pieces]
    texts += [f"a{piece}b {piece} {piece}\u0338{piece}" for piece in (*SPACES, *pieces)]
    texts += [" " * count + "x" + " " * count for count in range(40)]
    for _ in range(RANDOM_TEXTS):
        sequence = []
        for _ in range(rng.randrange(1, 30)):
            sequence.append(rng.choice(pieces))
            if rng.random() < 0.6:
                sequence.append(rng.choice(SPACES) * rng.choice((1, 1, 1, 2, 5)))
        texts.append("".join(sequence))
    return texts
