"""API keys: who may ask, and for what.

A file has one key a line, ``NAME:SHA256[:SCOPE,SCOPE]``, empty lines and comments after ``#``. It holds hashes, so
who reads it learns no key; keys have 256 random bits, which no list of guesses covers, so the hashes need no salt. Two
lines may have one name: a new key is added, clients change over, and the old one is taken out.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from serve.web.watched_file import WatchedFiles

logger = logging.getLogger(__name__)

Right = Literal["infer", "metrics", "admin"]
RIGHTS: tuple[Right, ...] = get_args(Right)

_MAX_FILE_BYTES = 256 << 10
_MAX_KEYS = 1000
_MAX_KEY_LENGTH = 512
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


class BadKeys(ValueError):
    """A file of keys cannot be used; the message says where and why."""


class Key(NamedTuple):
    """A key's name for the log, the SHA-256 of the key, and what it opens. ``admin`` opens everything."""

    name: str
    digest: bytes
    rights: frozenset[str]

    def may(self, right: Right) -> bool:
        """Whether the key opens what needs ``right``."""
        return right in self.rights or "admin" in self.rights


class ApiKeys:
    """The keys of a file, read again when it changes; a file that cannot be used leaves the keys as they were."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises BadKeys if the file cannot be used."""
        self._file = file
        self._watched = WatchedFiles(file, clock=clock)
        self._keys = read_keys(file)

    def find(self, presented: str) -> Key | None:
        """The key that was presented, or None. Takes as long for a wrong key as for a right one."""
        if self._watched.changed():
            self._read_again()
        if len(presented) > _MAX_KEY_LENGTH:
            return None
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
        found = None
        for key in self._keys:  # all of them: where a search ends says something about the keys before
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _read_again(self) -> None:
        try:
            self._keys = read_keys(self._file)
        except BadKeys as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("read %d API keys again from %s", len(self._keys), self._file)


def read_keys(file: Path) -> tuple[Key, ...]:
    """The keys of a file. Raises BadKeys if there is none in it, or a line is no key."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeys(f"{file} cannot be read: {error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise BadKeys(f"{file} is larger than {_MAX_FILE_BYTES} bytes")
    lines = ((number, line.split("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    keys = tuple(_key(f"{file}, line {number}", line) for number, line in lines if line)
    if not 0 < len(keys) <= _MAX_KEYS:
        raise BadKeys(f"{file} has {len(keys)} keys, from 1 to {_MAX_KEYS} are needed; {_HOW}")
    if len({key.digest for key in keys}) < len(keys):
        raise BadKeys(f"{file} has one key twice; {_HOW}")
    return keys


_HOW = "make a line with `skipvit-serve --new-key NAME`"


def _key(where: str, line: str) -> Key:
    # The line may be a key that somebody pasted, so no message repeats it.
    name, colon, rest = line.partition(":")
    digest, _, listed = rest.partition(":")
    if not colon or not _NAME.fullmatch(name) or not _HASH.fullmatch(digest):
        raise BadKeys(f"{where} is not NAME:SHA256 or NAME:SHA256:SCOPES; {_HOW}")
    rights = frozenset(right.strip() for right in listed.split(",")) if listed else frozenset({"infer"})
    if not rights <= set(RIGHTS):
        raise BadKeys(f"{where}, the key called {name}, has a scope that is none of {', '.join(RIGHTS)}")
    return Key(name, bytes.fromhex(digest), rights)


def new_key(name: str, rights: Iterable[str] = ("infer",)) -> tuple[str, str]:
    """A fresh key, and its line for the file.

    Raises:
        BadKeys: the name or a scope cannot be used.
    """
    key = f"skipvit_{secrets.token_urlsafe(32)}"
    line = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}:{','.join(rights)}"
    _key("what was asked for", line)
    return key, line
