"""Keeps secrets out of logs and metadata."""

import json
import os
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|APIKEY|(^|_)KEYS?($|_)|_(PASS|PWD)$",
    re.IGNORECASE,
)
# user:password@ in a connection string; `<password>` is what a sentence of advice has there
URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):(?!<password>@)([^/\s@]+)(?=@)")
# The same where the text is known to be one connection string: `/` and `@` can be in a password.
WHOLE_URL_PASSWORD = (
    re.compile(r"://[^/\s:@]*:([^\s@]+)@"),
    re.compile(r"://[^/\s:@]*:(\S+)@"),
)
CONNECTIONS = ("BUILD_ENGINE", "BUILD_ENGINE_SERVER")
# A shorter value would blot out half of every log, and protects nothing.
MIN_SECRET_LENGTH = 4


class Redactor:
    """Replaces the secrets of an environment, wherever they occur in a text, by `***`.

    A secret is the value of a variable whose name says so (password, key, token, …) or is one of
    `secret_names`, and the password in any connection string.
    """

    def __init__(self, env: Mapping[str, str], secret_names: Collection[str] = ()) -> None:
        found: set[str] = set()
        for name, value in env.items():
            is_secret = name in secret_names or SECRET_NAME.search(name)
            if is_secret or (name in CONNECTIONS and "://" not in value):
                found.update(line.strip() for line in value.splitlines())
            for pattern in WHOLE_URL_PASSWORD:
                found.update(pattern.findall(value))
        found |= {unquote(secret) for secret in found}
        found.update(*map(_spellings, found))
        self._secrets = sorted(
            (secret for secret in found if len(secret) >= MIN_SECRET_LENGTH), key=len, reverse=True
        )
        self.longest = max((len(secret) for secret in self._secrets), default=0)
        self._pattern = (
            re.compile("|".join(map(re.escape, self._secrets))) if self._secrets else None
        )

    def text(self, text: str) -> str:
        """The text without secrets."""
        # A search for a word is many times faster than a pattern, and nearly always in vain.
        if self._pattern and any(secret in text for secret in self._secrets):
            text = self._pattern.sub(MASK, text)
        return URL_PASSWORD.sub(rf"\1:{MASK}", text) if "://" in text else text

    def data(self, value: Any) -> Any:
        """JSON-like data with every string in it redacted."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.data(item) for item in value]
            case dict():
                return {self.text(str(key)): self.data(item) for key, item in value.items()}
            case _:
                return value


def _spellings(secret: str) -> set[str]:
    """The secret as programs write it in addresses, in JSON and in Python."""
    raw = os.fsencode(secret)
    encoded = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    return encoded | {json.dumps(secret)[1:-1], repr(secret)[1:-1], raw.decode(errors="replace")}
