"""Keep sensitive values out of what is written: tokens for fields, sealed bytes for dead letters.

Neither keys nor values ever appear in a message or a log.
"""

import base64
import binascii
import hmac
import os
import stat
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connectors.errors import ConnectorError

KEY_BYTES = 32
TOKENS_KEPT = 1 << 16  # of each class, the ones used last

_TOKEN_HEX_DIGITS = 32  # 128 bits: two of 10**12 values share a token with a chance below 10**-14
_VERSION = b"\x01"
_NONCE_BYTES = 12


class SecretError(ConnectorError):
    """A key is missing, malformed, readable by others, or not the one that sealed something."""


def parse_key(text: str, name: str = "PELTON_KEY") -> bytes:
    """Read a key of 32 bytes written in base64.

    Args:
        text: what the environment variable holds.
        name: how to call it in a message.

    Raises:
        SecretError: it is no base64, or of another length. The text is not shown.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise SecretError(f"{name} is not base64; make one with: openssl rand -base64 {KEY_BYTES}") from None
    if len(key) != KEY_BYTES:
        advice = f"make one with: openssl rand -base64 {KEY_BYTES}"
        raise SecretError(f"{name} has {len(key)} bytes and needs {KEY_BYTES}; {advice}")
    return key


def load_or_create_key(path: Path) -> bytes:
    """Return the key in a file that only its owner can read; make the file if there is none. For demos and laptops.

    Raises:
        SecretError: others can read the file, it cannot be read or written, or it holds no key.
    """
    try:
        return _create_key(path)
    except FileExistsError:
        return _load_key(path)
    except OSError as error:
        raise SecretError(f"the key file {path} cannot be written: {error.strerror}; choose another folder") from None


def _create_key(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.urandom(KEY_BYTES)
    # Written aside and linked, so that a second process never reads half a key; fails if the file exists.
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    if path.exists():
        raise FileExistsError(path)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64encode(key) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return key


def _load_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                advice = f"run: chmod 600 {path}"
                raise SecretError(f"the key file {path} can be read by others (mode {mode:03o}); {advice}")
            text = file.read(1024).decode("ascii", errors="replace")
    except OSError as error:
        raise SecretError(f"the key file {path} cannot be read: {error.strerror}; check its owner and mode") from None
    return parse_key(text, f"the key file {path}")


def _derive(key: bytes, purpose: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise SecretError(f"the key has {len(key)} bytes and needs {KEY_BYTES}")
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"pelton " + purpose + b" v1").derive(key)


class Tokeniser:
    """Replace sensitive values by tokens: equal values get equal tokens, and only the key's holder can link them.

    A token is the class, "_" and 128 bits of HMAC-SHA256 over class and value. Threads may share one.
    """

    def __init__(self, key: bytes, kept: int = TOKENS_KEPT) -> None:
        """Take the 32 bytes of the key, and how many tokens of each class to remember."""
        self._mac = hmac.new(_derive(key, b"tokens"), digestmod="sha256")
        self._kept = kept
        self._lock = threading.Lock()
        self._known: dict[str, OrderedDict[bytes, bytes]] = {}

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "Tokeniser(...)"

    def token(self, sensitive: str, value: str) -> str:
        """Return the token of one value, for example "card_4f0c..."."""
        return self._token(sensitive.encode(), value.encode()).decode()

    def tokens(self, sensitive: str, values: pa.Array) -> pa.StringArray:
        """Return the tokens of a string array (n,); null stays null. Each distinct value is hashed once."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        encoded = values.cast(pa.string()).dictionary_encode()
        with self._lock:
            found = self._remember(sensitive, encoded.dictionary.cast(pa.binary()).to_pylist())
        size = len(sensitive.encode()) + 1 + _TOKEN_HEX_DIGITS
        offsets = np.arange(len(found) + 1, dtype=np.int32) * size
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(found))]
        return pa.Array.from_buffers(pa.string(), len(found), buffers).take(encoded.indices)

    def _remember(self, sensitive: str, values: list[bytes]) -> list[bytes]:
        known = self._known.setdefault(sensitive, OrderedDict())
        name = sensitive.encode()
        found = []
        for value in values:
            token = known.pop(value, None) or self._token(name, value)
            known[value] = token  # the newest is last
            found.append(token)
        while len(known) > self._kept:
            known.popitem(last=False)
        return found

    def _token(self, sensitive: bytes, value: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(sensitive + b"\0" + value)  # no class has a zero byte: no two pairs give the same bytes
        return sensitive + b"_" + mac.hexdigest()[:_TOKEN_HEX_DIGITS].encode()


class Sealer:
    """Encrypt bytes so that only the key's holder reads them, and any change is found: AES-256-GCM.

    Sealed bytes are a version (1), a random nonce (12), the text and a tag (16).
    """

    def __init__(self, key: bytes) -> None:
        """Take the 32 bytes of the key."""
        self._cipher = AESGCM(_derive(key, b"seals"))

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "Sealer(...)"

    def seal(self, plain: bytes, context: bytes = b"") -> bytes:
        """Encrypt; `context` (a topic, an offset) is not stored, and must be the same to open."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, _VERSION + context)

    def open(self, sealed: bytes, context: bytes = b"") -> bytes:
        """Decrypt what `seal` made.

        Raises:
            SecretError: another key or context sealed it, it was changed, or it is not sealed at all.
        """
        if sealed[:1] != _VERSION or len(sealed) < 1 + _NONCE_BYTES + 16:
            raise SecretError("these bytes were not sealed by this version; nothing can be opened")
        nonce, encrypted = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, encrypted, _VERSION + context)
        except InvalidTag:
            raise SecretError("a sealed record does not open: another key sealed it, or it was changed") from None
