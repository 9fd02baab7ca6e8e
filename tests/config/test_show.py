"""The effective configuration as it is shown, and the files made from or for the settings."""

import tomllib
from pathlib import Path

import pytest

from mailflow.cli.reference import reference_text
from mailflow.config.show import entries, to_toml
from mailflow.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
hostname = "mx.example.test"
[[listener]]
bind = "127.0.0.1:2525"
[relay]
host = "[127.0.0.1]:2526"
[limits]
recipients = 1000
[scheduler.transport."odd name"]
slots = 5
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "m.toml").write_text(TEXT)
    return Settings.load(
        tmp_path / "m.toml", environment={"MAILFLOW_SMTP__HELO": 'say "hi"\x7f\n'}, overrides=["log.to=none"]
    )


@pytest.mark.wish(3)
def test_what_is_shown_can_be_loaded_and_is_the_same(settings: Settings, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    again.write_text(to_toml(settings))
    assert Settings.load(again, environment={}).model_dump() == settings.model_dump()


@pytest.mark.wish(3)
def test_the_difference_is_what_was_written_and_is_not_a_default(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    assert (
        to_toml(settings, diff=True)
        == f"""\
hostname = "mx.example.test"  # {file}:1

[[listener]]
bind = "127.0.0.1:2525"  # {file}:3

[relay]
host = "[127.0.0.1]:2526"  # {file}:5

[scheduler.transport."odd name"]
slots = 5  # {file}:9

[smtp]
helo = "say \\"hi\\"\\u007f\\n"  # environment variable MAILFLOW_SMTP__HELO

[log]
to = "none"  # command line
"""
    )


@pytest.mark.wish(70)
def test_every_setting_is_shown_once_and_has_words(settings: Settings) -> None:
    found = {entry.key: entry for entry in entries(settings)}
    assert found["limits.recipients"].default == 1000
    assert found["listener[0].backlog"].source == ""
    assert found["queue.lifetime"].value == "5d"
    assert len(found) == len(list(entries(settings)))
    reference = reference_text()
    for key in found:
        assert f"### `{key.rpartition('.')[2]}`" in reference, key
    assert "\n\n\n" not in reference


@pytest.mark.wish(70)
def test_the_reference_in_the_repository_is_made_from_this_code() -> None:
    made = (ROOT / "docs/settings.md").read_text()
    assert made == reference_text(), "stale: run `mailflow config reference > docs/settings.md`"


@pytest.mark.parametrize("name", ["mailflow.toml", "container.toml"])
def test_the_example_configurations_are_good(name: str) -> None:
    file = ROOT / "config" / name
    overrides = [] if "hostname" in tomllib.loads(file.read_text()) else ["hostname=mx.example.test"]
    settings = Settings.load(file, environment={}, overrides=overrides)
    assert settings.listener


def test_the_unit_and_the_image_start_the_server() -> None:
    unit = (ROOT / "config/mailflow.service").read_text()
    assert "Type=notify" in unit
    assert "mailflow serve --config /etc/mailflow/mailflow.toml" in unit
    image = (ROOT / "config/Dockerfile").read_text()
    assert 'CMD ["serve"]' in image
    assert "USER mailflow" in image
