"""Models of the Hugging Face hub: what a download would take, the download, and what to do where it fails.

`huggingface_hub` reads where to ask, the token and the cache from the environment: HF_ENDPOINT, HF_TOKEN (or what
`hf auth login` stored), HF_HOME, HF_HUB_OFFLINE.
"""

import errno
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from rankfleet.core.errors import CheckpointError

COMMIT = re.compile(r"[0-9a-f]{40}")  # a whole commit: its files never change, so that the hub need not be asked again


@dataclass(frozen=True)
class HubModel:
    """The files of a model on the hub that are read here. `bytes`: of all; `missing_bytes`: of those not in the cache;
    `commit`: which the revision stands for now."""

    model: str
    revision: str | None
    commit: str
    bytes: int
    missing_bytes: int


def look_up(model: str, revision: str | None, patterns: Sequence[str]) -> HubModel:
    """What a model's files that match the patterns take. The hub is not asked if they are in the cache at the commit
    asked for, and where it cannot be reached, the cache answers.

    Raises CheckpointError that says what to do if the model cannot be had, or has no safetensors file among these.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    here = cached(model, revision, patterns)
    if here is None or not is_commit(revision):
        try:
            # Asked first because it fails at once where the hub cannot be reached; listing files would try for 20 s.
            commit = str(HfApi().model_info(model, revision=revision).sha)
            files = snapshot_download(
                model, revision=commit, allow_patterns=[*patterns], dry_run=True, tqdm_class=silent_bar(lambda _: None)
            )
        except Exception as error:  # offline, blocked, missing, gated, a wrong revision: many classes
            if here is None or isinstance(error, RevisionNotFoundError):
                raise refusal(error, model, revision) from error
        else:
            check_safetensors(model, patterns, [file.filename for file in files])
            missing = sum(file.file_size or 0 for file in files if file.will_download)
            return HubModel(model, revision, commit, sum(file.file_size or 0 for file in files), missing)
    size = sum(path.stat().st_size for path in here.rglob("*") if path.is_file())
    return HubModel(model, revision, here.name, size, 0)


def fetch(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    local_only: bool = False,
    progress: Callable[[int], object] = lambda bytes_done: None,
) -> Path:
    """The folder in the cache with a model's files that match the patterns, after what is missing was downloaded.

    A connection that breaks is taken up where it broke; after a download that failed, whole files are not asked again.
    `local_only`: only the cache is searched. `progress`: called with the bytes downloaded so far, from several threads.

    Raises CheckpointError that says what to do.
    """
    from huggingface_hub import HfApi, snapshot_download

    if local_only or is_commit(revision):
        here = cached(model, revision, patterns)
        if here is not None:
            return here
    try:
        if is_commit(revision) and not local_only:
            HfApi().model_info(model, revision=revision)  # as in `look_up`
        folder = Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=[*patterns],
                local_files_only=local_only,
                tqdm_class=silent_bar(progress),
            )
        )
    except Exception as error:
        raise refusal(error, model, revision) from error
    check_safetensors(model, patterns, [path.name for path in folder.iterdir()])
    return folder


def cached(model: str, revision: str | None, patterns: Sequence[str]) -> Path | None:
    """The folder in the cache that has all of these files; None if there is none."""
    from huggingface_hub import snapshot_download

    try:
        here = Path(snapshot_download(model, revision=revision, allow_patterns=[*patterns], local_files_only=True))
        # A cache that an older release wrote does not say which files there should be.
        check_safetensors(model, patterns, [path.name for path in here.iterdir()])
    except Exception:
        return None
    return here


def is_commit(revision: str | None) -> bool:
    return revision is not None and COMMIT.fullmatch(revision) is not None


def check_safetensors(model: str, patterns: Sequence[str], names: Iterable[str]) -> None:
    """Raises CheckpointError if weights are wanted, and none of the files holds any."""
    if any("safetensors" in pattern for pattern in patterns) and not any(n.endswith(".safetensors") for n in names):
        raise CheckpointError(
            f"{model} has no safetensors file on the hub, and other weights are not loaded, because reading them may "
            "run code.\n"
            f"  Convert it once, where you trust it:  CrossEncoder('{model}').save_pretrained('DIR')\n"
            "  and set the tier's `model: DIR`"
        )


def check_space(models: Iterable[HubModel]) -> None:
    """Raises CheckpointError if the cache's disk has no room for what these models still have to download."""
    from huggingface_hub import constants

    missing = sum(model.missing_bytes for model in models)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if missing > free:
        raise CheckpointError(
            f"the models take {decimal(missing)}, and {cache} has {decimal(free)} free; make room, or set HF_HOME to a "
            "folder on another disk"
        )


def in_tenths(what: str, total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """A `progress` for `fetch` that says how much of `total` bytes is there, in tenths."""
    return lambda done: say(f"{what}: {min(100, 10 * (10 * done // max(1, total)))}% of {decimal(total)}")


def silent_bar(progress: Callable[[int], object]) -> type:
    """A tqdm class for `snapshot_download` that draws nothing and hands on the bytes that have been written."""
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # The other bars count files, and what the network carries.
            self.counts_bytes = options.get("unit") == "B" and "Reconstruct" in str(options.get("desc"))
            super().__init__(*arguments, **options | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.counts_bytes:
                progress(int(self.n))

    return Bar


def refusal(error: BaseException, model: str, revision: str | None) -> CheckpointError:
    """The error in the words of a person who wants this model: what is wrong and what to do."""
    from huggingface_hub import constants, errors, get_token

    chain = [error]  # down to the root cause
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)

    def has(kind: type[BaseException]) -> bool:
        return any(isinstance(link, kind) for link in chain)

    page = f"{constants.ENDPOINT}/{model}"
    if has(errors.GatedRepoError):
        how = "ask for access with the account of your token" if get_token() else "set HF_TOKEN to a token of yours"
        return CheckpointError(f"{model} is gated: accept its terms at {page}, and {how} (or run `hf auth login`)")
    if has(errors.RepositoryNotFoundError):
        return CheckpointError(
            f"the hub at {constants.ENDPOINT} has no model {model}, or does not show it: check the name; a private one "
            f"needs HF_TOKEN{', set to a token that may read it' if get_token() else ''}"
        )
    if has(errors.RevisionNotFoundError):
        return CheckpointError(f"{model} has no revision {revision}; its commits are listed at {page}/commits/main")
    status = next((link.response.status_code for link in chain if isinstance(link, errors.HfHubHTTPError)), None)
    if status in (401, 403):
        return CheckpointError(
            f"the hub refuses your token for {model} (status {status}): make one that may read it at "
            f"{constants.ENDPOINT}/settings/tokens and set HF_TOKEN; public models need none"
        )
    for link in chain:
        if isinstance(link, OSError) and (link.errno == errno.ENOSPC or (link.errno and link.filename)):
            return CheckpointError(
                f"{model} cannot be stored at {link.filename or constants.HF_HUB_CACHE}: {link.strerror}; set HF_HOME "
                "to a folder that can be written and has room"
            )
    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else type(chain[-1]).__name__
    return CheckpointError(
        f"cannot get {model}{f' at {revision}' if revision else ''} from the hub at {constants.ENDPOINT} "
        f"({f'status {status}' if status else why}), and the cache {constants.HF_HUB_CACHE} does not have all of it.\n"
        f"  On a machine with network:  hf download {model}{f' --revision {revision}' if revision else ''} "
        "--local-dir DIR\n"
        "  then copy DIR here and set the tier's `model: DIR`;\n"
        "  or use the demo tiers, which need no download:  rankfleet serve --config demo"
    )
