"""Chat templates of rerankers that are language models: the rendered prompt as token ids around the two texts."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.text.pair_template import InstructionSlot, PairTemplate, TextWrap, tokenizer_template

# Placeholders in the prompt that is split.
QUERY, DOCUMENT, INSTRUCTION = "Querytext", "Documenttext", "Instructiontext"
PROBES = ("what is a wing?", "", " (a) spaced\n\n", "12 ÷ 3 = 4.")

Render = Callable[[str, str, str], str]  # query, document and instruction (empty for none) to the prompt as characters


def chat_template(checkpoint: Checkpoint) -> PairTemplate:
    """The pair template of the checkpoint's chat template; its tokenizer's own where it takes no messages.

    The prompt is rendered as Sentence Transformers renders it. Raises CheckpointError for a template that does not
    show query and document once each, in this order, or whose texts cannot be encoded on their own.
    """
    settings = checkpoint.settings
    if "message" not in settings.get("modality_config", {}):
        return tokenizer_template(checkpoint)

    loaded = checkpoint.tokenizer
    structured = settings["modality_config"]["message"].get("format") == "structured"
    options = dict(settings.get("processing_kwargs", {}).get("chat_template", {}))
    options.pop("restore_suffix", None)
    default = checkpoint.default_prompt

    def render(query: str, document: str, instruction: str) -> str:
        parts = [("query", query), ("document", document)]
        if instruction:
            parts.insert(0, ("system", instruction))
        messages: Any = [
            {"role": role, "content": [{"type": "text", "text": text}] if structured else text} for role, text in parts
        ]
        try:
            return str(loaded.apply_chat_template(messages, tokenize=False, **options))
        except Exception as error:  # jinja's own errors, and whatever the template raises
            raise CheckpointError(f"{checkpoint.folder}: the chat template cannot be rendered: {error}") from error

    special = [token.content for token in loaded.added_tokens_decoder.values() if token.special]
    inner = loaded.backend_tokenizer
    try:
        template = split_prompt(render(QUERY, DOCUMENT, default), inner, special)
        strip = f"\t{QUERY}" not in render(f"\t{QUERY}", DOCUMENT, default)
        template = replace(template, wrap=replace(template.wrap, strip=strip))
        _check(template, inner, render, default)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.folder}: {error}") from None
    return replace(template, instruction=instruction_slot(template, inner, render))


def instruction_slot(template: PairTemplate, tokenizer: Tokenizer, render: Render) -> InstructionSlot | None:
    """Where the prompt shows an instruction; None if it does not, or not once and in front of the query, or if this
    tokenizer joins it with the texts. `template`: of the prompt as it is by default."""
    try:
        head = render(QUERY, DOCUMENT, INSTRUCTION).split(QUERY)[0].removesuffix(template.wrap.prefix)
        if head.count(INSTRUCTION) != 1:
            return None
        left, right = head.split(INSTRUCTION)
        slot = InstructionSlot(left, right, f"\t{INSTRUCTION}" not in render(QUERY, DOCUMENT, f"\t{INSTRUCTION}"))
        for instruction in filter(None, PROBES):
            before = _ids(tokenizer, slot.filled(instruction))
            _check(replace(template, before=before), tokenizer, render, instruction)
    except CheckpointError:
        return None
    return slot


def split_prompt(rendered: str, tokenizer: Tokenizer, special: list[str]) -> PairTemplate:
    """A rendered prompt that contains QUERY and DOCUMENT, as token ids around the texts.

    `special`: the tokenizer's special tokens, which texts never merge with.

    Byte-level vocabularies merge a text with the space before it, and a full stop with the line end after it. So each
    text is encoded together with its neighbouring characters, up to the next letter, digit or special token.
    """
    if rendered.count(QUERY) != 1 or rendered.count(DOCUMENT) != 1 or rendered.index(QUERY) > rendered.index(DOCUMENT):
        raise CheckpointError("the chat template has to show the query and then the document, once each")
    head, rest = rendered.split(QUERY)
    middle, tail = rest.split(DOCUMENT)
    boundary = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)"
    left_of_texts = [re.split(boundary, part)[-1] for part in (head, middle)]
    right_of_texts = [re.split(boundary, part)[0] for part in (middle, tail)]
    prefixes = {str(re.search(r"[\W_]*\Z", left)[0]) for left in left_of_texts}  # type: ignore[index]
    suffixes = {str(re.match(r"[\W_]*", right)[0]) for right in right_of_texts}  # type: ignore[index]
    if len(prefixes) > 1 or len(suffixes) > 1 or re.fullmatch(r"[\W_]*", middle):
        raise CheckpointError("the chat template sets query and document apart in ways that differ")
    prefix, suffix = prefixes.pop(), suffixes.pop()

    after = _ids(tokenizer, tail[len(suffix) :])
    return PairTemplate(
        before=_ids(tokenizer, head[: len(head) - len(prefix)]),
        between=_ids(tokenizer, middle[len(suffix) : len(middle) - len(prefix)]),
        after=after,
        wrap=TextWrap(prefix, suffix),
        truncated_end=_ids(tokenizer, suffix) + after,
    )


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _check(template: PairTemplate, tokenizer: Tokenizer, render: Render, instruction: str) -> None:
    """Raises CheckpointError unless the parts, encoded apart, equal the whole prompt for each of the probe texts.
    `instruction`: that `template` shows, or the default one."""
    for query in PROBES:
        for document in PROBES:
            parts = [
                template.before,
                _ids(tokenizer, template.wrap.document(query)),
                template.between,
                _ids(tokenizer, template.wrap.document(document)),
                template.after,
            ]
            if list(chain(*parts)) != _ids(tokenizer, render(query, document, instruction)):
                raise CheckpointError("this tokenizer joins the prompt with the texts in it; it is not supported")
