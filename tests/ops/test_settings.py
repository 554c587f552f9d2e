"""Settings from the environment and options."""

from pathlib import Path

import pytest

from ops.settings import Settings, SettingsError

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_without_anything_all_is_below_one_folder():
    settings = Settings.read(environment={})
    assert [settings.log, settings.state, settings.bundles, settings.key_file] == [
        Path(".pelton/log.db"), Path(".pelton/state"), Path(".pelton/registry"), Path(".pelton/key")
    ]  # fmt: skip


def test_an_option_comes_before_the_environment():
    assert Settings.read(Path("mine"), {"PELTON_DATA": "theirs"}).log == Path("mine/log.db")
    assert Settings.read(None, {"PELTON_DATA": "theirs"}).log == Path("theirs/log.db")


def test_snapshots_go_where_the_option_or_the_environment_says():
    environment = {"PELTON_STATE": "s3://bank/state"}
    assert Settings.read(environment=environment).state == "s3://bank/state"
    assert Settings.read(environment=environment, state="elsewhere").state == Path("elsewhere")


def test_the_key_is_never_shown():
    assert KEY not in repr(Settings.read(environment={"PELTON_KEY": KEY}))


def test_a_key_of_the_environment_makes_no_file(tmp_path):
    settings = Settings.read(tmp_path, {"PELTON_KEY": KEY})
    tokeniser, sealer = settings.secrets(make=True)
    assert tokeniser is not None
    assert sealer is not None
    assert not settings.key_file.exists()


def test_without_a_key_none_is_made_unless_asked(tmp_path):
    settings = Settings.read(tmp_path, {})
    assert settings.secrets() == (None, None)
    assert settings.secrets(make=True)[0] is not None
    assert settings.key_file.stat().st_mode & 0o077 == 0


def test_a_log_is_not_made_by_looking(tmp_path):
    with pytest.raises(SettingsError, match=r"there is no log at .*; put records into one: pelton append"):
        Settings.read(tmp_path, {}).open_log()
    assert not (tmp_path / "log.db").exists()
