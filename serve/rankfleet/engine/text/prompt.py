"""Prompts of rerankers that are language models: a chat template with a query and a document in it, as
Sentence Transformers renders it, turned into token ids around the two texts."""

import re
from dataclasses import replace
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.text.encoder import Wrap
from rankfleet.engine.text.tokenizer import PairTemplate

QUERY, DOCUMENT = "Querytext", "Documenttext"  # stand for the texts while the template is taken apart
PROBES = ("what is a wing?", "", " (a) spaced\n\n", "12 ÷ 3 = 4.")


def prompt_template(checkpoint: Checkpoint) -> PairTemplate | None:
    """The prompt of a checkpoint whose score is a `LogitScore`; None where pairs are laid out by the tokenizer.

    Raises CheckpointError for a template that does not show query and document once each, in this order, or whose
    texts cannot be encoded on their own.
    """
    if "LogitScore" not in {kind for kind, _ in checkpoint.modules}:
        return None
    settings = checkpoint.settings
    if "message" not in settings.get("modality_config", {}):
        return None

    loaded = checkpoint.tokenizer
    structured = settings["modality_config"]["message"].get("format") == "structured"
    options = dict(settings.get("processing_kwargs", {}).get("chat_template", {}))
    options.pop("restore_suffix", None)
    instruction = checkpoint.default_prompt

    def render(query: str, document: str) -> str:
        parts = [("query", query), ("document", document)]
        if instruction:
            parts.insert(0, ("system", instruction))
        messages: Any = [
            {"role": role, "content": [{"type": "text", "text": text}] if structured else text} for role, text in parts
        ]
        try:
            return str(loaded.apply_chat_template(messages, tokenize=False, **options))
        except Exception as error:  # jinja raises its own, and what the template raises
            raise CheckpointError(f"{checkpoint.folder}: the chat template cannot be rendered: {error}") from error

    special = [t.content for t in loaded.added_tokens_decoder.values() if t.special]
    try:
        template = take_apart(render(QUERY, DOCUMENT), loaded.backend_tokenizer, special)
        trim = f"\t{QUERY}" not in render(f"\t{QUERY}", DOCUMENT)
        template = replace(template, wrap=replace(template.wrap, trim=trim))
        _check(template, loaded.backend_tokenizer, render)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.folder}: {error}") from None
    return template


def take_apart(rendered: str, tokenizer: Tokenizer, special: list[str]) -> PairTemplate:
    """A rendered prompt with QUERY and DOCUMENT in it, as token ids around the texts.

    Byte-level vocabularies join a text with the space before it and a full stop with the line end behind it, so
    the texts are encoded with their neighbours up to the next letter, digit or special token.
    """
    if rendered.count(QUERY) != 1 or rendered.count(DOCUMENT) != 1 or rendered.index(QUERY) > rendered.index(DOCUMENT):
        raise CheckpointError("the chat template has to show the query and then the document, once each")
    head, rest = rendered.split(QUERY)
    middle, tail = rest.split(DOCUMENT)
    mark = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)"
    ends, begins = (
        [re.split(mark, part)[at] for part in parts] for at, parts in ((-1, (head, middle)), (0, (middle, tail)))
    )
    leads = {str(re.search(r"[\W_]*\Z", end)[0]) for end in ends}  # type: ignore[index]
    trails = {str(re.match(r"[\W_]*", begin)[0]) for begin in begins}  # type: ignore[index]
    if len(leads) > 1 or len(trails) > 1 or re.fullmatch(r"[\W_]*", middle):
        raise CheckpointError("the chat template sets query and document apart in ways that differ")
    lead, trail = leads.pop(), trails.pop()

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    after = ids(tail[len(trail) :])
    return PairTemplate(
        before=ids(head[: len(head) - len(lead)]),
        between=ids(middle[len(trail) : len(middle) - len(lead)]),
        after=after,
        wrap=Wrap(lead, trail),
        ending=ids(trail) + after,
    )


def _check(template: PairTemplate, tokenizer: Tokenizer, render: Any) -> None:
    """Raises CheckpointError where the parts do not add up to the whole for any of some awkward texts."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    for query in PROBES:
        for document in PROBES:
            parts = [
                template.before,
                ids(template.wrap(query)),
                template.between,
                ids(template.wrap(document)),
                template.after,
            ]
            if list(chain(*parts)) != ids(render(query, document)):
                raise CheckpointError("this tokenizer joins the prompt with the texts in it; it is not supported")
