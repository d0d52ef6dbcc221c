"""Takes secrets out of texts before they leave the process.

Clients decide what is in a text, so its length alone decides what this costs: no pattern here looks at a
character more often than a fixed number of times. `packages/lifeguard/tests/observability/test_scrub.py`
counts the steps.
"""

from __future__ import annotations

import binascii
import functools
import json
import re
from collections.abc import Iterable, Iterator

from lifeguard.settings.environment import secrets_read, tokens_read

HIDDEN = "***"
# A secret of one or two letters would blank out half of every line; in URLs it is still hidden.
_SHORTEST_SEARCHED = 3
# Characters that were replaced meanwhile, or that a query writes in place of a space.
_ALIKE = bytes.maketrans(b"+%\0", b" ==")
# Characters that an escape makes of one, at most: an escaped backslash in a representation in JSON.
_LONGEST_ESCAPE = 12
# Characters that the pattern of one of them may match.
_MOST_OF_A_CHARACTER = 96
# Characters of a secret that one pattern searches for, of a text in which it does that at once, and of a
# percent-encoding of one byte, which may be encoded itself.
_LENGTH_OF_HEAD, _WINDOW, _LONGEST_PERCENT = 8, 4096, 5
# Characters that a URL's login may have for its end to be found when a text is cut.
_LONGEST_LOGIN = 1024

# user:password@ in any URL. All up to white space or a quote is matched, so that nothing is looked at again
# if there is no @ in it.
_LOGIN = re.compile(r"(://[^\s:/@'\"]*:)([^\s\"]*)")
# password=... as libpq and query strings write it, quoted or not, and a member of that name in JSON or a
# dict, whose quotes may be escaped. What is hidden ends before a quote that could be that of a line in JSON.
_PARAMETER = re.compile(
    r"(passw(?:ord|d)(?:=(?:\\{0,4}'|\\{1,4}\"|(?![\\\s&'\"]))|\\{0,4}': ?\\{0,4}'|\\{0,4}\": ?\\{0,4}\"))"
    r"(?:(?<=')(?:[^'\"\\]+|\\[\s\S])*|(?<=\")(?:[^\"\\]+|\\[\s\S])*|(?:[^\s&'\"\\]+|\\\\)+)",
    re.IGNORECASE,
)


class Scrubber:
    """Replaces the secrets it was given, and what looks like a password in a URL, by `***`.

    A secret is found in plain text, escaped as in JSON and in Python, and with any of its characters
    percent-encoded. So are passwords that were read from a file since.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._told = frozenset(secrets)
        self._known: frozenset[str] = frozenset()
        self._forms: list[str] = []
        self._hints: list[tuple[tuple[bytes, ...], str]] = []
        self._learn(self._told)

    @property
    def reach(self) -> int:
        """Characters at the end of a cut text that may be part of a secret."""
        longest = max(map(len, self._known), default=0)
        return max(_LONGEST_LOGIN, longest * _LONGEST_ESCAPE)

    def __call__(self, text: str) -> str:
        if secrets_read or tokens_read or self._known is not self._told:
            self._learn(self._told.union(secrets_read, tokens_read))
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        if "%" in text or "\\" in text or "+" in text:
            text = self._without_escaped(text)
        if "@" in text and "://" in text:
            text = _LOGIN.sub(_hide_login, text)
        if "assw" in text or "ASSW" in text:
            text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
        return text

    def head(self, text: str, longest: int) -> str:
        """Give the first `longest` characters, scrubbed. The rest is not looked at."""
        if len(text) <= longest:
            return self(text)
        reach = self.reach
        scrubbed = self(text[: longest + reach])
        return f"{scrubbed[: max(0, min(longest, len(scrubbed) - reach))]}..."

    def tail(self, text: str, longest: int) -> str:
        """Give the last `longest` characters, scrubbed. The rest is not looked at."""
        if len(text) <= longest:
            return self(text)
        reach = self.reach
        scrubbed = self(text[-longest - reach :])
        return f"...{scrubbed[max(reach, len(scrubbed) - longest) :]}"

    def _learn(self, secrets: frozenset[str]) -> None:
        if secrets == self._known:
            return
        self._known = secrets
        written = {form for secret in secrets for form in _forms(secret)}
        # The longest first: a secret may contain another one.
        self._forms = sorted((form for form in written if len(form) >= _SHORTEST_SEARCHED), key=_by_length)
        self._hints = [
            (hints, secret)
            for secret in sorted(secrets, key=_by_length)
            if (hints := tuple(hint for hint in _plain_forms(secret) if len(hint) >= _SHORTEST_SEARCHED))
        ]

    def _without_escaped(self, text: str) -> str:
        """Hide secrets with escapes in them. What finds the place is dear, and asked only if there is one."""
        plain = _plain(text)
        for hints, secret in self._hints:
            if any(hint in plain for hint in hints):
                text = without_escaped(text, secret)
        return text


def _by_length(text: str) -> int:
    return -len(text)


def _forms(secret: str) -> set[str]:
    """Give `secret` as it is written in plain text, in JSON, and in a Python representation."""
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}


def _plain(text: str) -> bytes:
    """Give the text without its escapes: percent-encoding undone, twice encoded as well, no backslashes.

    Several texts become the same one; what matters is that a secret does, however it was escaped.
    """
    whole = text.encode("utf-8", "surrogatepass").replace(b"\r", b" ").replace(b"\n", b" ")
    # To undo quoted-printable, which has = in the place of %, is the fastest there is.
    decoded = binascii.a2b_qp(whole.replace(b"%25", b"%").replace(b"=", b"\0").replace(b"%", b"="))
    return decoded.translate(_ALIKE, b"\\")


def _plain_forms(secret: str) -> set[bytes]:
    """Give what `_plain` makes of `secret`: letters beyond ASCII may be in UTF-8, or numbers by an escape."""
    ascii_only = json.dumps(secret)[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return {_plain(secret), _plain(ascii_only)}


def without_escaped(text: str, secret: str) -> str:
    """`text` without `secret`, whose characters may be escaped, each in its way.

    A pattern of a whole secret would cost half a second to make for a token of a kilobyte. So there is one of
    its beginning, searched for where the text without its escapes has that, and one of each character.
    """
    characters = secret.replace("%25", "%")
    if "%25" in characters or ("%" in characters and "\\" in characters):  # may be read in several ways
        return _pattern_of(characters).sub(HIDDEN, text)
    kept, end = [], 0
    for start, stop in _places(text, characters):
        kept += [text[end:start], HIDDEN]
        end = stop
    return "".join([*kept, text[end:]])


def _places(text: str, characters: str) -> Iterator[tuple[int, int]]:
    """Yield where `characters` begin and end in `text`."""
    head = _head_of(characters)
    hints, pattern, reach = _plain_forms(head), _pattern_of(head), len(head) * _MOST_OF_A_CHARACTER
    at = 0
    while at < len(text):
        end = at + _WINDOW
        plain = _plain(text[at : end + reach])
        if any(hint in plain for hint in hints):
            while (match := pattern.search(text, at, end + reach)) is not None and match.start() < end:
                stop = _end_of(text, match.end(), characters[len(head) :])
                if stop is not None:
                    yield match.start(), stop
                at = stop or match.start() + 1
        at = max(at, end)


def _head_of(characters: str) -> str:
    """The beginning, which does not end within an escape."""
    length = _LENGTH_OF_HEAD
    while "%" in characters[max(0, length - _LONGEST_PERCENT) : length]:
        length += 1
    return characters[:length]


def _end_of(text: str, at: int, characters: str) -> int | None:
    """Where `characters` end that begin at `at`; None if they do not."""
    for character in characters:
        match = _pattern_of(character).match(text, at)
        if match is None:
            return None
        at = match.end()
    return at


@functools.lru_cache(maxsize=512)
def _pattern_of(characters: str) -> re.Pattern[str]:
    """Make the pattern that finds them with any of them escaped, and only that."""
    return re.compile("".join(map(_any_form, characters)))


def _any_form(character: str) -> str:
    """A pattern for one character: as it is, percent-encoded, as a JSON escape, behind backslashes."""
    percent = "".join(f"%(?:25)?(?i:{byte:02x})" for byte in character.encode("utf-8", "surrogatepass"))
    if character == "\\":
        return rf"(?:\\|{percent}){{0,16}}"
    if character == "%":
        return r"\\{0,8}%(?:25){0,3}"
    forms = [percent, re.escape(character)]
    if character in "+ ":
        forms += ["[+ ]", "%(?:25)?(?i:2b|20)"]
    elif not character.isascii():
        units = json.dumps(character)[1:-1].split("\\")[1:]  # two of them beyond the first 65,536
        forms.append(r"\\{0,8}".join(f"(?i:{unit})" for unit in units))
    elif character in "\r\n\t":
        forms.append(repr(character)[2])
    return rf"\\{{0,8}}(?:{'|'.join(forms)})"


def _hide_login(match: re.Match[str]) -> str:
    before, at, after = match[2].rpartition("@")
    return f"{match[1]}{HIDDEN}@{after}" if at and before else match[0]
