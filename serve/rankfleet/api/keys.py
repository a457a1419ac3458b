"""API keys: who may use a fleet, by a file that holds the SHA-256 of each key and is read again when it changes.

One line a key, as `rankfleet keys new` prints it: the digest in hex and the tenant's name. Several keys of a tenant are
valid at the same time, so that a new one can be handed out before the old one is removed.
"""

import hashlib
import hmac
import logging
import re
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rankfleet.core.errors import ConfigError, Forbidden, Unauthorized

LINE = re.compile(r"([0-9a-f]{64})\s+([A-Za-z0-9][A-Za-z0-9._-]{0,62})")
KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
PREFIX_BYTES = 8  # of a digest, by which it is found; the rest is compared in constant time

log = logging.getLogger("ray.serve")


class Key(NamedTuple):
    """One line of the file."""

    digest: bytes
    tenant: str


NO_KEY = Key(bytes(32), "")


def new_key() -> str:
    """A new key, of 256 random bits. Its beginning lets secret scanners find it where it should not be."""
    return f"rf_{secrets.token_urlsafe(32)}"


def line_of(key: str, tenant: str) -> str:
    """The line for the file. Raises ConfigError for a name that no tenant can have."""
    line = f"{hashlib.sha256(key.encode()).hexdigest()} {tenant}"
    if not LINE.fullmatch(line):
        raise ConfigError(f"tenant {tenant!r}: use up to 63 letters, digits, dots, hyphens and underscores")
    return line


def parse_keys(text: str, source: str) -> list[Key]:
    """The keys of a file. Raises ConfigError that names the line, and does not repeat what it says: it may be a key."""
    found: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if (match := LINE.fullmatch(line)) is None:
            raise ConfigError(f"{source}, line {number}: is not `SHA256 TENANT`, as `rankfleet keys new` prints it")
        key = Key(bytes.fromhex(match[1]), match[2])
        if found.setdefault(key.digest[:PREFIX_BYTES], key) != key:
            raise ConfigError(f"{source}, line {number}: the key is that of another tenant, too")
    return list(found.values())


def sent_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The keys in a request's headers, in the forms that clients send: `Authorization: Bearer KEY`, with the scheme in
    any case or left out, `x-api-key` and `api-key`."""
    for name, value in headers:
        if name not in KEY_HEADERS:
            continue
        words = value.split()
        if name == b"authorization" and len(words) == 2 and words[0].lower() == b"bearer":
            words = words[1:]
        if len(words) == 1:
            yield words[0]


class KeyRing:
    """The keys of a file."""

    def __init__(self, path: str, tenants: Collection[str] = ()) -> None:
        """tenants: those that the fleet file names; empty for any. Raises ConfigError for what is wrong with the
        file."""
        self._path = Path(path)
        self._tenants = frozenset(tenants)
        self._stamp = self._stat()
        self._keys = self._read()
        self._fault = ""  # why it could not be read again

    def check_tenants(self) -> None:
        """Raises ConfigError if the file has a tenant that the fleet file does not name. For starts and updates alone:
        a router that is replaced later serves all others, and refuses that tenant."""
        if unknown := sorted({key.tenant for key in self._keys.values()} - self._tenants) if self._tenants else []:
            raise ConfigError(f"{self._path}: the fleet file has no tenant {', '.join(unknown)}; add it to `tenants`")

    def refresh(self) -> None:
        """Read the file again if it has changed. If it cannot be read, the keys read before stay valid, and the log
        says why, once."""
        try:
            if (stamp := self._stat()) == self._stamp:
                return
            self._keys, self._stamp, self._fault = self._read(), stamp, ""
            log.info("%s: read %d API keys", self._path, len(self._keys))
        except ConfigError as error:
            if self._fault != (fault := str(error)):
                log.error("the API keys read before stay valid: %s", error)
            self._fault = fault

    def tenant_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Whose key is in a request's headers.

        Raises Unauthorized if there is none or it is not valid, Forbidden if the fleet file does not name its tenant.
        """
        message = "this fleet asks for an API key; send it as `Authorization: Bearer KEY`, `x-api-key` or `api-key`"
        for sent in sent_keys(headers):
            digest = hashlib.sha256(sent).digest()
            key = self._keys.get(digest[:PREFIX_BYTES], NO_KEY)
            if hmac.compare_digest(key.digest, digest):
                if self._tenants and key.tenant not in self._tenants:
                    raise Forbidden(f"tenant {key.tenant} is not among those of this fleet; ask whoever runs it")
                return key.tenant
            message = "the API key is not valid here; ask whoever runs this fleet for one"
        raise Unauthorized(message)

    def _stat(self) -> tuple[int, ...]:
        """Changes with the file, also if it is another file behind the same link, as secrets are on Kubernetes."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror or error}") from error
        if not stat.S_ISREG(found.st_mode):  # a pipe would hold up whoever reads it
            raise ConfigError(f"{self._path}: is not a regular file")
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev

    def _read(self) -> dict[bytes, Key]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror or error}") from error
        except UnicodeDecodeError:
            raise ConfigError(f"{self._path}: is not UTF-8") from None
        return {key.digest[:PREFIX_BYTES]: key for key in parse_keys(text, str(self._path))}
