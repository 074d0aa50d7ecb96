"""Whatever is put in: valid JSON, within its bytes, equal where it fits, and never a secret."""

from __future__ import annotations

import json
import re
import string
from collections import namedtuple
from dataclasses import make_dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papyra_otel.payload import describe_exception, jsonable, payload_text, redact_text, redact_url

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
UTF8_TEXT = st.text(st.characters(codec="utf-8"))
KEYS = st.text(st.characters(codec="utf-8"), max_size=128)
JSON_DATA = st.recursive(
    PLAIN | UTF8_TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
ANY_LEAF = (
    PLAIN
    | st.text(st.characters(codec=None, categories=None))  # lone surrogates too
    | st.integers()
    | st.floats()
    | st.binary()
    | st.decimals()
    | st.complex_numbers()
    | st.dates()
    | st.datetimes()
    | st.uuids()
    | st.builds(object)
    | st.builds(ValueError, st.text())
)
HASHABLE = (
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
)
ANY_DATA = st.recursive(
    ANY_LEAF,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner)
        | st.sets(HASHABLE)
        | st.frozensets(HASHABLE)
        | st.builds(iter, st.lists(inner))
    ),
    max_leaves=30,
)
SECRET = "Zq7Zq7Zq7"  # letters that nothing else here is made of
NAMES = (
    "password user_password dbPassword DB-PASSWORD X-Api-Key apiKey accessToken refresh_token client_secret "
    "Authorization cookie Set-Cookie session_id credentials privateKey passphrase pin cvv ssn cardNumber pwd"
)
SECRET_NAMES = st.sampled_from(NAMES.split())
PLAIN_NAMES = st.sampled_from(["name", "author", "order", "tokens_count", "monkey", "keyboard", "n"])

UNHURRIED = settings(deadline=None)  # a busy machine is no failure


def strict_loads(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@UNHURRIED
@given(value=ANY_DATA, limit=st.integers(0, 300), mode=st.sampled_from(["redacted", "full"]))
def test_any_data_becomes_valid_json_within_its_bytes(value: Any, limit: int, mode: str):
    text = payload_text(value, mode=mode, limit_bytes=limit)
    if limit < 2:
        assert text is None
        return
    assert text is not None
    assert len(text.encode()) <= limit
    strict_loads(text)


@UNHURRIED
@given(value=JSON_DATA)
def test_plain_data_that_fits_comes_back_exactly_equal(value: Any):
    text = payload_text(value, mode="full", limit_bytes=1_000_000)
    assert text is not None
    again = strict_loads(text)
    assert again == value
    assert json.dumps(again) == json.dumps(value)  # equal is not enough: 1 == 1.0 == True, and -0.0 == 0.0


@UNHURRIED
@given(value=JSON_DATA)
def test_plain_data_is_not_cut_when_the_limit_is_its_very_size(value: Any):
    exact = payload_text(value, mode="full", limit_bytes=1_000_000)
    assert exact is not None
    if len(exact.encode()) >= 2:
        assert payload_text(value, mode="full", limit_bytes=len(exact.encode())) == exact


@UNHURRIED
@given(value=JSON_DATA)
def test_jsonable_leaves_plain_data_alone(value: Any):
    assert json.dumps(jsonable(value)) == json.dumps(value)


@UNHURRIED
@given(value=ANY_DATA)
def test_jsonable_is_something_that_msgspec_and_json_hold_faithfully(value: Any):
    result = jsonable(value)
    assert msgspec.json.decode(msgspec.json.encode(result)) == result
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@UNHURRIED
@given(value=st.dictionaries(HASHABLE, st.integers(0, 99), max_size=30))
def test_no_key_is_lost_whatever_it_reads_like(value: dict[Any, int]):
    assert sorted(jsonable(value).values()) == sorted(value.values())


@UNHURRIED
@given(items=st.lists(st.text(max_size=8), min_size=2, max_size=200), limit=st.integers(60, 200))
def test_a_cut_list_says_how_many_items_are_not_shown(items: list[str], limit: int):
    text = payload_text(items, mode="full", limit_bytes=limit)
    assert text is not None
    shown = strict_loads(text)
    if shown != items:
        assert shown[-1] == f"…(+{len(items) - len(shown) + 1} more)"


def _in_dict(name: str, inner: Any) -> Any:
    return {name: inner}


def _in_object_repr(name: str, inner: Any) -> Any:
    class Shown:
        def __repr__(self) -> str:
            return f"Shown(n=1, {''.join(filter(str.isalnum, name))}={inner!r}, m=2)"

    return Shown()


def _identifier(name: str) -> str:
    return name.replace("-", "_")


SECRET_PLACES = st.sampled_from(
    [
        _in_dict,
        _in_object_repr,
        lambda name, inner: namedtuple("N", ["a", _identifier(name)])(1, inner),  # noqa: PYI024
        lambda name, inner: make_dataclass("D", ["a", _identifier(name)])(1, inner),
        lambda name, inner: make_dataclass("D", ["a", _identifier(name)], slots=True)(1, inner),
        lambda name, inner: msgspec.defstruct("S", ["a", _identifier(name)])(1, inner),
        lambda name, inner: [(name, inner)],
        lambda name, inner: [(name.encode(), inner)],
        lambda name, inner: {name.encode(): inner},
        lambda name, inner: {"name": name, "value": inner},
        lambda name, inner: ValueError(f"{name}: {inner!r}"),
        lambda name, inner: f"{name}={inner!r}",
        lambda name, inner: json.dumps({"a": 1, name: repr(inner)}),
        lambda name, inner: repr({"a": 1, name: inner}),
        lambda name, inner: f"x=1&{name}={quote(repr(inner))}&y=2",
    ]
)
SECRET_VALUES = st.sampled_from(
    [SECRET, SECRET.encode(), [SECRET], {"a": SECRET}, (1, SECRET), f"{SECRET} {SECRET}"]
)
AROUND = st.sampled_from(
    [
        lambda inner: inner,
        lambda inner: [1, inner],
        lambda inner: {"a": inner},
        lambda inner: (inner, inner),
        lambda inner: {"long": "x" * 3000, "a": inner},
        lambda inner: {"a": {"b": [inner, Decimal(1)]}},
        ValueError,
    ]
)


@UNHURRIED
@given(
    place=SECRET_PLACES, name=SECRET_NAMES, value=SECRET_VALUES, around=AROUND, limit=st.integers(16, 3000)
)
def test_a_secret_never_shows_wherever_it_is_put(place: Any, name: str, value: Any, around: Any, limit: int):
    planted = around(place(name, value))
    text = payload_text(planted, limit_bytes=limit)
    assert text is not None
    assert "Zq7" not in text


@UNHURRIED
@given(place=SECRET_PLACES, name=SECRET_NAMES)
def test_the_planted_secret_does_show_in_full_mode(place: Any, name: str):
    text = payload_text(place(name, SECRET), mode="full")
    assert text is not None
    assert SECRET in text


@UNHURRIED
@given(name=PLAIN_NAMES, place=SECRET_PLACES)
def test_what_is_under_a_harmless_name_does_show(place: Any, name: str):
    text = payload_text(place(name, SECRET))
    assert text is not None
    assert SECRET in text


# An @ and then ?…= is left out: that reads as the end of the credentials and then a query, by any rule.
PASSWORDS = (
    st.text(string.ascii_uppercase + "@/:#?%!$,;=<>+0123456789", max_size=12)
    .filter(lambda inside: re.search(r"@.*[?].*=", inside) is None)
    .map(lambda inside: f"Zq7{inside}Zq7")
)
HOSTS = st.sampled_from(["localhost", "db.example.com:6379", "h1:1,h2:2", "[::1]:80"])
USERS = st.sampled_from(["", "bob", "svc-1", "b.o_b"])
SCHEMES = st.sampled_from(["redis", "rediss", "redis+cluster", "https", "postgres", "file"])


@UNHURRIED
@given(
    scheme=SCHEMES, user=USERS, password=PASSWORDS, host=HOSTS, path=st.sampled_from(["", "/0", "/a/b?x=1"])
)
def test_no_part_of_a_password_in_a_url_shows(scheme: str, user: str, password: str, host: str, path: str):
    url = f"{scheme}://{user}:{password}@{host}{path}"
    assert redact_url(url) == f"{scheme}://***@{host}{path}"
    assert "Zq7" not in redact_text(f"cannot reach {url} now")
    assert "Zq7" not in str(payload_text([url, {url: url}]))
    assert "Zq7" not in "".join(describe_exception(ValueError(url)))


@UNHURRIED
@given(password=PASSWORDS, before=st.integers(0, 3000), limit=st.integers(16, 2048))
def test_a_cut_through_a_url_never_shows_a_beginning_of_its_password(password: str, before: int, limit: int):
    text = "x" * before + f" redis://bob:{password.replace('?', '') * 60}@host/0 " + "y" * 3000
    assert "Zq7" not in str(payload_text(text, limit_bytes=limit))
    assert "Zq7" not in str(payload_text(text.encode(), limit_bytes=limit))
    assert "Zq7" not in str(jsonable(text, redact=True, max_text_chars=limit))


@UNHURRIED
@given(name=SECRET_NAMES, value=st.text(string.ascii_letters + string.digits + "#;:/@", max_size=10))
def test_secret_parameters_of_a_url_are_masked_and_others_kept(name: str, value: str):
    url = f"https://host/p?a=1&{name}=Zq7{value}Zq7&b=2"
    masked = redact_url(url)
    assert "Zq7" not in masked
    if "@" not in value:
        assert masked == f"https://host/p?a=1&{name}=***&b=2"


@UNHURRIED
@given(text=st.text(st.characters(codec=None, categories=None)))
def test_redaction_takes_any_text_and_doing_it_twice_changes_nothing(text: str):
    redact_url(text)
    once = redact_text(text)
    assert redact_text(once) == once


@UNHURRIED
@given(
    text=st.text(" abcABC_-.,'\"", max_size=200),
)
def test_text_without_anything_like_a_pair_or_url_is_untouched(text: str):
    if "--" not in text:
        assert redact_text(text) == text


@UNHURRIED
@given(text=st.text(alphabet="=:'\"\\()[]{} @/&;,password.token-\n", max_size=300), limit=st.integers(2, 400))
def test_text_made_of_separators_and_names_stays_bounded(text: str, limit: int):
    shown = payload_text({"a": text, "b": [text, ValueError(text)]}, limit_bytes=limit)
    assert shown is not None
    assert len(shown.encode()) <= limit
    strict_loads(shown)


@UNHURRIED
@given(message=st.text(), depth=st.integers(1, 30))
def test_descriptions_of_exceptions_stay_within_their_bytes(message: str, depth: int):
    error: BaseException = ValueError(message * 200)
    for _ in range(depth):
        following = KeyError(message * 100)
        following.__cause__ = error
        error = following
    name, text, trace = describe_exception(error)
    assert name == "KeyError"
    assert len(text.encode()) <= 1024
    assert len(trace.encode()) <= 8192


@pytest.mark.parametrize("mode", ["redacted", "full"])
@UNHURRIED
@given(value=st.binary(max_size=50))
def test_bytes_are_shown_readably(mode: str, value: bytes):
    assert strict_loads(str(payload_text(value, mode="full"))) == repr(value)
    assert payload_text(bytearray(value), mode=mode) == payload_text(value, mode=mode)
