"""Wrong settings cannot exist, and say what is wrong with them."""

from __future__ import annotations

import pytest

from papyra_otel import ConfigError, config
from papyra_otel.config import FsyncMode, MessagePolicy, PayloadMode, Settings
from papyra_otel.facts import FactKind


def load(**texts: str) -> Settings:
    return Settings.load({}, {f"OTEL_PYTHON_PAPYRA_{name}": text for name, text in texts.items()})


def test_defaults_are_the_documented_ones():
    assert Settings.load({}, {}) == Settings()
    assert Settings().log == "file:papyra-facts"
    assert Settings().fsync is FsyncMode.INTERVAL


def test_the_environment_is_read():
    settings = load(
        LOG="file:///var/facts",
        SYSTEM="orders",
        RETENTION="events=7d",
        FSYNC="ALWAYS",
        PAYLOAD="none",
        AUDIT_INTERVAL="5m",
        SCAN_INTERVAL="off",
        FORWARD_PAYLOAD="true",
    )
    assert (settings.log, settings.system) == ("file:///var/facts", "orders")
    assert settings.retention.of(FactKind.EVENT).max_age_seconds == 7 * 86_400
    assert (settings.fsync, settings.payload) == (FsyncMode.ALWAYS, PayloadMode.NONE)
    assert (settings.audit_interval_seconds, settings.scan_interval_seconds) == (300.0, None)
    assert settings.forward_payload is True


def test_what_is_given_wins_over_the_environment():
    assert (
        Settings.load({"log": "memory:", "system": None}, {"OTEL_PYTHON_PAPYRA_LOG": "file:x"}).log
        == "memory:"
    )


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=my%20shop"}, "my shop"),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_RESOURCE_ATTRIBUTES": "service.name=y"}, "x"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "nonsense"}, None),
    ],
)
def test_the_service_name_is_found_as_the_sdk_finds_it(environ, name):
    assert Settings.load({}, environ).service_name == name


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("FSYNC", "sometimes", "never, interval, always"),
        ("STARTUP", "recvoer", "ignore, scan, recover, fail"),
        ("MESSAGES", "sampled:0", "sampled:N"),
        ("MESSAGES", "some", "all, failed, off"),
        ("RETENTION", "events=forever", "'forever' is not a limit"),
        ("RETENTION", "evnts=7d", "'evnts' is not a kind"),
        ("AUDIT_INTERVAL", "often", "30s"),
        ("AUDIT_INTERVAL", "0", "more than 0"),
        ("SCAN_INTERVAL", "0", "more than 0"),
        ("FORWARD_PAYLOAD", "perhaps", "true, false"),
        ("WRITE", "sideways", "through, queued"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(name, text, said):
    with pytest.raises(ConfigError, match=f"OTEL_PYTHON_PAPYRA_{name}") as refused:
        load(**{name: text})
    assert said in str(refused.value)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match="did you mean OTEL_PYTHON_PAPYRA_RETENTION"):
        load(RETENTOIN="events=7d")
    with pytest.raises(ConfigError, match="did you mean OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL"):
        Settings.load({"audit_intervall": 3}, {})


def test_an_empty_variable_is_as_if_not_set():
    assert load(LOG="") == Settings()


@pytest.mark.parametrize(
    ("text", "kept_ok", "kept_failed"), [("all", True, True), ("failed", False, True), ("off", False, False)]
)
def test_which_messages_are_kept(text, kept_ok, kept_failed):
    policy = MessagePolicy(text)
    assert policy.keeps(failed=False) is kept_ok
    assert policy.keeps(failed=True) is kept_failed


def test_sampling_keeps_its_share_and_every_failure():
    shares = iter([0.0, 0.24, 0.25, 0.9])
    policy = MessagePolicy("sampled:4", pick=lambda: next(shares))
    assert [policy.keeps(failed=False) for _ in range(4)] == [True, True, False, False]
    assert policy.keeps(failed=True) is True


def test_credentials_in_the_log_url_are_not_shown():
    assert "hunter2" not in repr(Settings(log="redis://app:hunter2@db/0"))


def test_every_setting_is_a_flag_of_opentelemetry_instrument():
    flags = {getattr(config, name) for name in dir(config) if name.startswith("OTEL_")}
    assert flags == {f"OTEL_PYTHON_PAPYRA_{name.upper()}" for name in config._PARSERS}
