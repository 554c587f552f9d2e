"""What a run keeps on this machine: the key of sensitive fields, and the registry."""

from ops.running import kept_here
from ops.settings import Settings
from pipeline import App, Stream, Task

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def app_of(card):
    payments = Stream("payments", id="id", time="ts", lateness="5s", fields={"card": card, "amount": "money"})
    return App("bank", [Task("fraud", payments, {"amount": payments.amount}, model=None, learner=None)])


def said_by(app, settings):
    said = []
    with kept_here(app, settings, said.append) as (tokeniser, _, registry):
        assert registry is not None
    return said, tokeniser


def test_who_runs_an_app_with_sensitive_fields_is_told_of_the_key(tmp_path):
    settings = Settings.read(tmp_path, {})
    advice = (
        f"{settings.key_file}, readable by its owner only; who runs the app elsewhere needs the same, as PELTON_KEY"
    )
    made = said_by(app_of("card"), settings)
    used = said_by(app_of("card"), settings)
    assert [made[0], used[0]] == [[f"key made: {advice}"], [f"key used: {advice}"]]
    assert made[1].token("card", "4000") == used[1].token("card", "4000")


def test_no_key_is_made_where_none_is_needed(tmp_path):
    assert said_by(app_of("string"), Settings.read(tmp_path, {})) == ([], None)
    said, tokeniser = said_by(app_of("card"), Settings.read(tmp_path, {"PELTON_KEY": KEY}))
    assert said == []
    assert tokeniser is not None
    assert not (tmp_path / "key").exists()
