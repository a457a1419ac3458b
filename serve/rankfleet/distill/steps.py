"""Which pairs are on the device together: those of one optimiser step, by length, so that little is padded."""

from collections.abc import Callable, Iterator, Sequence

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler


class ByLength(DefaultBatchSampler):
    """Micro-batches whose gradients are added up to the steps that they would make in random order.

    The pairs of a step are drawn at random, `steps_of` at a time, and only then sorted by length and cut into
    micro-batches: what a step learns from is unchanged, and pairs on the device together are about as long.
    """

    def __init__(self, lengths: Sequence[int], steps_of: int, micro: int, seed: int) -> None:
        super().__init__(lengths, batch_size=micro, drop_last=False, seed=seed)
        self._lengths = torch.as_tensor(lengths)
        self._steps_of = steps_of

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)  # the same when a run is continued
        for step in torch.randperm(len(self._lengths), generator=generator).split(self._steps_of):
            for micro in step[self._lengths[step].argsort(stable=True)].split(self.batch_size):
                yield micro.tolist()

    def __len__(self) -> int:
        whole, rest = divmod(len(self._lengths), self._steps_of)
        return whole * -(-self._steps_of // self.batch_size) + -(-rest // self.batch_size)


def by_length(steps_of: int) -> Callable[..., ByLength]:
    """For `CrossEncoderTrainingArguments.batch_sampler`. steps_of: pairs of an optimiser step."""

    def sampler(dataset: dict[str, Sequence[str]], *, batch_size: int, seed: int, **_: object) -> ByLength:
        lengths = [len(query) + len(text) for query, text in zip(dataset["query"], dataset["document"], strict=True)]
        return ByLength(lengths, steps_of, batch_size, seed)

    return sampler
