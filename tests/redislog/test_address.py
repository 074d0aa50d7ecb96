"""Log URLs: what they say, what is wrong with them, and that no secret of them is ever shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from papyra_otel.errors import ConfigError
from papyra_otel.facts import FactKind
from papyra_otel.log import open_log
from papyra_otel.log.redis.address import Durability, Topology, parse_address
from papyra_otel.log.redis.keys import EntryId, Tag, index_key, tag_of_key
from papyra_otel.log.redis.wire import slot_of
from papyra_otel.testing.log_cases import HOSTILE_SYSTEMS

UNDERSTOOD: list[tuple[str, dict[str, Any]]] = [
    ("redis://localhost", {"hosts": (("localhost", 6379),), "database": 0, "tls": False}),
    ("redis://h:7000/3", {"hosts": (("h", 7000),), "database": 3}),
    ("redis://h/", {"hosts": (("h", 6379),), "database": 0}),
    ("redis://[::1]:6380", {"hosts": (("::1", 6380),)}),
    ("redis://:pw@h", {"username": None, "password": "pw"}),
    ("redis://ada:p%40s%2Fs%3A%3F%23@h", {"username": "ada", "password": "p@s/s:?#"}),
    ("redis://ada:a:b@h", {"username": "ada", "password": "a:b"}),
    (
        "rediss://h?tls_ca=/ca.pem&tls_hostname=false",
        {"tls": True, "tls_ca": "/ca.pem", "tls_hostname": False},
    ),
    ("unix:///run/redis.sock", {"path": "/run/redis.sock", "hosts": ()}),
    ("redis+unix://ada:x@/run/r%20s.sock", {"path": "/run/r s.sock", "username": "ada"}),
    (
        "redis+sentinel://s1,s2:5/main/2?sentinel_password=x",
        {
            "topology": Topology.SENTINEL,
            "hosts": (("s1", 26379), ("s2", 5)),
            "primary_name": "main",
            "database": 2,
            "sentinel_password": "x",
        },
    ),
    ("rediss+sentinel://s/main", {"topology": Topology.SENTINEL, "tls": True}),
    ("redis+cluster://a,b:7001", {"topology": Topology.CLUSTER, "hosts": (("a", 6379), ("b", 7001))}),
    ("redis://h?durability=wait", {"durability": Durability.WAIT, "replicas": 1}),
    ("redis://h?durability=aof&replicas=2", {"durability": Durability.AOF, "replicas": 2}),
    ("redis://h?timeout=500ms&wait_timeout=0.1", {"timeout_seconds": 0.5, "wait_timeout_seconds": 0.1}),
    ("redis://h?prefix=a:b&shards=4&client_name=x", {"prefix": "a:b", "shards": 4, "client_name": "x"}),
]

WRONG = [
    ("redis://", "host"),
    ("redis://h:0", "host:port"),
    ("redis://h:99999", "host:port"),
    ("redis://a,b", "several servers"),
    ("redis://h/x", "database"),
    ("redis://h/1/2", "database"),
    ("redis://h#1", "%23"),
    ("redis+cluster://h/1", "only one"),
    ("redis+sentinel://h", "primary"),
    ("redis+sentinel://h//1", "primary"),
    ("unix://relative", "socket"),
    ("redis://h?colour=red", "not an option"),
    ("redis://h?shards=0", "1 to 64"),
    ("redis://h?shards=3&shards=4", "twice"),
    ("redis://h?durability=best", "reply, wait, aof"),
    ("redis://h?replicas=1", "durability"),
    ("redis://h?timeout=0", "time"),
    ("redis://h?timeout=1&wait_timeout=1", "shorter"),
    ("redis://h?tls_ca=/x", "rediss"),
    ("redis://h?tls_verify=false", "rediss"),
    ("rediss://h?tls_cert=/x", "together"),
    ("rediss://h?tls_verify=maybe", "true or false"),
    ("redis://h?prefix={x}", "letters"),
    ("redis://h?timeout", "name=value"),
]


@pytest.mark.parametrize(("url", "expected"), UNDERSTOOD, ids=[url for url, _ in UNDERSTOOD])
def test_a_url_says_where_and_how(url: str, expected: dict[str, Any]) -> None:
    address = parse_address(url)
    assert {name: getattr(address, name) for name in expected} == expected


@pytest.mark.parametrize(("url", "told"), WRONG, ids=[url for url, _ in WRONG])
def test_a_wrong_url_is_refused_with_what_would_be_right(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_log(url)


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://ada:{SECRET}@h",
        f"redis://h?password={SECRET}",
        f"redis+sentinel://:{SECRET}@s/main?sentinel_password={SECRET}",
        f"redis+cluster://ada:{SECRET}@h/1",
        f"redis://ada:{SECRET}@h?colour=red",
        f"redis://ada:{SECRET}@h:x",
        f"redis://ada:{SECRET}@a,b",
        f"unix://ada:{SECRET}@relative",
        f"redis://h?sentinel_password={SECRET}&sentinel_password={SECRET}",
    ],
)
def test_no_secret_is_shown(url: str) -> None:
    try:
        shown = f"{parse_address(url)!r} {parse_address(url).shown}"
    except ConfigError as error:
        shown = str(error)
    assert SECRET not in shown


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_config_error(text: str) -> None:
    try:
        parse_address(f"redis://{text}")
    except ConfigError:
        return


# --- keys ---------------------------------------------------------------------------------------------


@given(st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_slots_are_those_of_the_cluster(text: str) -> None:
    assert slot_of(text) == key_slot(text.encode())


@pytest.mark.parametrize("system", [*HOSTILE_SYSTEMS, "a}b", "{", "{}", "x~s2", "papyra:{a}:events"])
@pytest.mark.parametrize("shard", [0, 3])
def test_all_keys_of_a_tag_are_in_one_slot_and_lead_back_to_it(system: str, shard: int) -> None:
    tag = Tag.new("papyra", system, shard)
    keys = [tag.stream(kind) for kind in FactKind] + [tag.fence, tag.meta, tag.quarantine]
    assert len({slot_of(key) for key in keys}) == 1
    assert tag_of_key("papyra", tag.fence) == (tag, "fence")
    assert tag.is_of(system)
    assert tag.shard == ("~s3" if shard else "")
    assert not tag.is_of(system + "x")
    if tag.is_whole:
        assert tag.system == system


def test_what_is_no_key_of_ours_leads_nowhere() -> None:
    for key in ("papyra:systems", "papyra:{}:events", "papyra:{a}", "other:{a}:events", "xpapyra:{a}:events"):
        assert tag_of_key("papyra", key) is None
    assert index_key("papyra") == "papyra:systems"


def test_identifiers_of_entries_have_neighbours() -> None:
    assert EntryId(5, 0).previous() < EntryId(5, 0) < EntryId(5, 0).next() == EntryId(5, 1)
    assert EntryId(5, 0).previous().milliseconds == 4
    assert EntryId(0, 0).previous() == EntryId(0, 0)
    assert EntryId.parse(bytes(EntryId(7, 8))) == EntryId(7, 8)
