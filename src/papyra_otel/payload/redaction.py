"""Which names are secret, and text and URLs without what is. Linear in the length of the text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from papyra_otel.payload.types import (
    KEY_CHARS_MAX,
    exact_text,
)

__all__ = [
    "MASK",
    "REDACT_AHEAD_CHARS",
    "SECRET_KEYS",
    "is_secret_key",
    "redact_text",
    "redact_url",
    "redacted",
    "redacted_cut",
]

MASK: Final = "***"
REDACT_AHEAD_CHARS = 1024  # a text is redacted this far past the place where it is going to be cut

_ANYWHERE = (
    "password,passwd,passphrase,passcode,pass word,pwd,secret,token,credential,cred,api key,access key,private key,"
    "secret key,signing key,encryption key,master key,account key,shared key,auth key,ssh key,session key,"
    "access tokens,refresh tokens,api tokens,auth tokens,authorization,jwt,card number,credit card,cvv,cvc,cvv2,ssn,"
    "social security,otp,totp"
)
SECRET_KEYS: Final = tuple(_ANYWHERE.split(","))
"""Words that make a key name secret wherever they stand in it; a space matches nothing or one separator.

Case, ``-``, ``_``, ``.`` and camelCase do not matter. Terms of five letters and more may have anything glued to
their left (``dbpassword``), shorter ones are whole words. A name that ends in a harmless word (``token_count``)
is not secret. See ``is_secret_key``.
"""

_AT_END = "auth,oauth,basicauth,xauth,cookie,session,session id,sess,sid,pin,pass,pw,pat,bearer,csrf"
_QUALIFIERS = (
    r"id|value|hash|digest|header|data|code|text|str|string|raw|plain|bytes|hex|base|b|old|new|current|confirm"
    r"|confirmation|env|\d+"
)
_HARMLESS = (
    "count,counts,length,len,size,type,url,uri,endpoint,at,on,ttl,expires,expiry,expired,expiration,age,name,policy,"
    "required,enabled,disabled,changed,valid,invalid,strength,file,path,usage,used,limit,budget,created,updated,max,"
    "min,method,mode,provider,scheme,status"
)
_HARMLESS_END = frozenset(_HARMLESS.split(","))
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_URL_ONLY_SECRETS = frozenset({"key", "sig", "signature", "x_amz_signature", "x_goog_signature"})


def _term_pattern(term: str) -> str:
    left = "" if len(term) >= len("token") else "_"
    plural = "" if term.endswith(("token", "tokens")) else "s?"
    return left + term.replace(" ", "_?") + plural


_SECRET = re.compile(
    f"(?:{'|'.join(map(_term_pattern, SECRET_KEYS))})_"
    rf"|(?:{'|'.join(map(_term_pattern, _AT_END.split(',')))})_(?:(?:{_QUALIFIERS})_)*$"
    r"|^_tokens_$"
)


def is_secret_key(name: str) -> bool:
    """Say whether a value under this key name is to be masked: ``dbPassword``, ``X-Api-Key``, not ``author``.

    Of names over 256 characters the first and last 128 are looked at. Raises TypeError for what is not a str.
    """
    if type(name) is str and len(name) <= 2 * KEY_CHARS_MAX:
        return _is_secret(name)
    return _is_secret(
        f"{exact_text(name, KEY_CHARS_MAX)}_{str.__getitem__(name, slice(-KEY_CHARS_MAX, None))}"
    )


@lru_cache(maxsize=2048)
def _is_secret(name: str) -> bool:
    return any(map(_is_secret_spelling, {_spelled(name), _spelled(name.lower())}))


def _spelled(name: str) -> str:
    return f"_{'_'.join(_WORD.findall(name)).lower()}_"


def _is_secret_spelling(spelled: str) -> bool:
    last_word = spelled.rstrip("_").rpartition("_")[2]
    return last_word not in _HARMLESS_END and _SECRET.search(spelled) is not None


# --- text and URLs ------------------------------------------------------------------------------

_MAY_HOLD_SECRET = re.compile(r"[:=]|--|\(\\*[bru]?['\"]|[Bb]earer|BEARER|Basic")
_CREDENTIALS = re.compile(r"://(?![\w.\-]+(?::\d{1,5})?/?[\"'])(\S+)")
_BEARER = re.compile(r"(?i:\b(bearer)[ \t]+)[^\s\"',;]{4,}|\b(Basic)[ \t]+[A-Za-z0-9+/_\-]{12,}=*")
_PAIR = re.compile(
    r"(?<![\w.\-])(?:(?P<lead>--?|\(\\*[bru]?['\"]))?"
    r"(?P<key>(?:(?i:api|access|private|secret|auth|card) )?[\w.\-]+)"
    r"(?P<close>[\"'\\\]]{0,8})(?P<sep>[ \t]*(?:[:=]+>?\s{0,64}|,?[ \t]+|,))"
)
_SCHEME_THEN_REST = re.compile(r"(?i)(?:bearer|basic|digest|token|apikey|negotiate|aws4-hmac-sha256)[ \t]+")
_LINE_REST = re.compile(r"[^\r\n\"']*")
_HEADER_KEYS = ("authorization", "cookie")
_PLAIN_VALUE = re.compile(r"(?:[^\s&;\"'\\]|\\+(?![\"'\\]))*")
_QUOTE = re.compile(r"(?:[bBrRuUfF]{0,2})(\\*)([\"'])")
_OPENING = re.compile(r"[\w.]*[\[({]")
_BRACKET_OR_QUOTE = re.compile(r"[\[({\])}]|(?<!\\)\\*[\"']")
_QUERY_PAIR = re.compile(r"([?&;#])([^=&;#]*)=([^&]*)")
_HOST = re.compile(r"(?:\[[\w:.%]*\]|[^:\[\]]+)(?::\d{0,5})?")
_NO_AUTHORITY = re.compile(r"\s*(?:file|memory|mailto):(?!//[^/])", re.IGNORECASE)


def redact_text(text: str) -> str:
    """Return *text* with the credentials of URLs and what follows secret-looking names masked as ``***``.

    Masks ``password=…``, ``"token": "…"``, ``Authorization: Bearer …``, ``--api-key …``, ``('cookie', '…')``, and
    rather a word too many than one too few. The time is linear in the length of *text*; never raises.
    """
    try:
        return redacted(exact_text(text))
    except Exception:  # garbage that is not text: better nothing than a secret
        return MASK


def redacted(text: str) -> str:
    """Return *text* with secrets masked; raises what its patterns raise."""
    if _MAY_HOLD_SECRET.search(text) is None:
        return text
    if "://" in text:
        text = _CREDENTIALS.sub(lambda found: "://" + _without_userinfo(found[1]), text)
    return _BEARER.sub(lambda found: f"{found[1] or found[2]} {MASK}", _without_secret_pairs(text))


def redacted_cut(text: str) -> str:
    """Redact the beginning of a longer text: credentials whose ``@`` was cut off are masked as if it were there."""
    return redacted(text + "@").removesuffix("@")


def _without_secret_pairs(text: str) -> str:
    pieces: list[str] = []
    done = position = 0
    while found := _PAIR.search(text, position):
        position = found.end()
        if _announces_value(found) and is_secret_key(found["key"]):
            start, position = _value_span(text, position, found["key"])
            pieces += (text[done:start], MASK)
            done = position
        elif found["sep"][-1:] in " \t\n,":
            position = found.start("sep")  # the next word may be a key itself
    return text if done == 0 else "".join((*pieces, text[done:]))


def _announces_value(found: re.Match[str]) -> bool:
    separator = found["sep"].lstrip(" \t")
    if separator[:1] in {":", "="}:
        return True
    lead = found["lead"] or ""
    return lead.startswith("--") or (lead.startswith("(") and "," in separator)


def _value_span(text: str, start: int, key: str) -> tuple[int, int]:
    """Return where the value beginning at *start* begins (inside its quotes) and ends."""
    if quote := _QUOTE.match(text, start):
        return quote.end(), _quoted_end(text, quote.end(), quote[1], quote[2])
    return start, max(
        _end_of(_PLAIN_VALUE, text, start), _bracketed_end(text, start), _header_end(text, start, key)
    )


def _bracketed_end(text: str, start: int) -> int:
    opening = _OPENING.match(text, start)
    return start if opening is None else _brackets_end(text, opening.end())


def _header_end(text: str, start: int, key: str) -> int:
    """Return where credentials of several words end, ``Bearer …`` or a whole cookie; *start* for other values."""
    if scheme := _SCHEME_THEN_REST.match(text, start):
        return _credentials_end(text, scheme.end())
    return _credentials_end(text, start) if key.lower().endswith(_HEADER_KEYS) else start


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()


def _credentials_end(text: str, start: int) -> int:
    """Return where credentials with parameters (``Digest username="x", …``) end: with the line, quotes and all."""
    end = _end_of(_LINE_REST, text, start)
    while text[end : end + 1] == '"' and text[end - 1 : end] == "=":
        closing = text.find('"', end + 1)
        end = len(text) if closing < 0 else _end_of(_LINE_REST, text, closing + 1)
    return end


def _quoted_end(text: str, start: int, slashes: str, quote: str) -> int:
    """Return where the quoted value ends: at *quote* behind exactly as many backslashes as opened it, or nowhere."""
    for found in re.compile(rf"(?<!\\)\\*{quote}").finditer(text, start):
        behind = found.end() - found.start() - 1
        if behind <= len(slashes) or (behind - len(slashes)) % (2 * len(slashes) + 2) == 0:
            return found.start()
    return len(text)


def _brackets_end(text: str, start: int) -> int:
    """Return where the bracket opened just before *start* closes, skipping quoted parts."""
    depth, inside = 1, ""
    for found in _BRACKET_OR_QUOTE.finditer(text, start):
        mark = found[0]
        if inside:
            inside = "" if mark == inside else inside
        elif mark[-1] in "\"'":
            inside = mark
        else:
            depth += 1 if mark in "[({" else -1
        if depth == 0:
            return found.end()
    return len(text)


def redact_url(url: str) -> str:
    """Return *url* with ``user:password`` and the values of secret-looking parameters masked as ``***``.

    Credentials reach to the last ``@`` that can end them, so that a password may hold ``@``, ``/``, ``:``, ``#`` or
    ``?``; where that is in doubt more is masked. What is not a URL comes back safe too; never raises.
    """
    try:
        return _url_without_secrets(exact_text(url))
    except Exception:  # garbage that is not text: better nothing than a secret
        return MASK


def _url_without_secrets(url: str) -> str:
    if _NO_AUTHORITY.match(url):
        return _without_secret_parameters(url)
    scheme = re.match(r"\s*(?:[A-Za-z][\w+.\-]*:)?//", url)
    if scheme is None:
        before, at, after = url.rpartition("@")
        return _without_secret_parameters(f"{MASK if before else ''}{at}{after}")
    return scheme[0] + _without_secret_parameters(_without_userinfo(url[scheme.end() :]))


def _without_userinfo(rest: str) -> str:
    """Mask up to the last ``@`` of what follows ``://``, unless that ``@`` is plainly part of a path or query."""
    if rest.startswith("/"):
        return rest
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest.partition("?")
    hosts = authority.rpartition("@")[2].split(",")
    in_query = "=" in query.rpartition("@")[0] and all(map(_HOST.fullmatch, hosts))
    end = rest.rfind("@", 0, len(path) if in_query else len(rest))
    plain_path = end >= len(authority) and ":" not in rest[:end]
    return rest if end < 0 or plain_path else MASK + rest[end:]


def _without_secret_parameters(url: str) -> str:
    if "://" in url:
        url = _CREDENTIALS.sub(lambda found: "://" + _without_userinfo(found[1]), url)
    return _QUERY_PAIR.sub(_masked_parameter, url) if "=" in url else url


def _masked_parameter(found: re.Match[str]) -> str:
    mark, key, value = found.groups()
    name = unquote(key)
    if is_secret_key(name) or name.lower().replace("-", "_") in _URL_ONLY_SECRETS:
        return f"{mark}{key}={MASK}"
    return f"{mark}{key}={_without_secret_parameters_of(value)}"


def _without_secret_parameters_of(value: str) -> str:
    """Look for further pairs behind ``;`` and ``#`` in a harmless *value*, from the last one on."""
    for mark in ("#", ";"):
        parts = value.split(mark)
        value = mark.join([parts[0], *map(_masked_part, parts[1:])])
    return value


def _masked_part(part: str) -> str:
    key, equals, _ = part.partition("=")
    return f"{key}={MASK}" if equals and is_secret_key(unquote(key)) else part
