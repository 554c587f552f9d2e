"""A folder with an app and a small stream for it, and the command line in it."""

import pytest
from typer.testing import CliRunner

from ops.cli import app, spread
from ops.simulate import SimulationSettings, simulate

BANK = """
from pipeline import App, Fixed, Rule, Stream, Task

payments = Stream("payments", id="event_id", time="ts", lateness="5s", fields={
    "card": "card", "terminal": "string", "place": "string", "amount": "money"})
frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
hour, day = payments.by("card").last("1h"), payments.by("terminal").last("24h")
features = {
    "paid": payments.amount, "count_1h": hour.count(), "std_1h": hour.std("amount"), "terminal_24h": day.count()}
rules = [Rule("many", "count_1h > 4", "review")]
risk = Task("risk", on=payments, features=features, rules=rules, label=frauds.is_fraud, threshold=Fixed())
app = App("bank", tasks=[risk])
"""


@pytest.fixture(scope="session")
def stream(tmp_path_factory):
    """Return a folder with payments.jsonl and frauds.jsonl: a day, with late, stale and broken records."""
    folder = tmp_path_factory.mktemp("stream")
    settings = SimulationSettings(
        days=1, events_per_day=1500, cards=50, terminals=20, malformed_share=0.005, stale_share=0.005, seed=3
    )
    return simulate(settings, folder)


@pytest.fixture
def bank(tmp_path, monkeypatch, stream):
    """Stand in a folder with bank.py, data/, and a user's own `models` folder beside."""
    (tmp_path / "bank.py").write_text(BANK)
    (tmp_path / "data").symlink_to(stream.payments_path.parent)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise ImportError('the models of the user')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(bank, kafka, monkeypatch):
    """An app whose topics are its own: (app's name, name of its stream)."""
    from tests.kafka_broker import fresh  # brings a Kafka client, which most tests do without

    app, payments, frauds = fresh("bank"), fresh("payments"), fresh("frauds")
    text = (bank / "bank.py").read_text().replace('"payments"', f'"{payments}"').replace('"frauds"', f'"{frauds}"')
    (bank / "bank.py").write_text(text.replace('"bank"', f'"{app}"'))
    monkeypatch.setenv("PELTON_KAFKA_BROKERS", kafka)
    return app, payments


@pytest.fixture
def pelton():
    """Return a function that runs a command line in this process and returns its result."""
    runner = CliRunner()

    def run(line, code=0):
        result = runner.invoke(app, spread(line.split()), prog_name="pelton")
        assert result.exit_code == code, f"{line}\n{result.stdout}\n{result.stderr}\n{result.exception!r}"
        return result

    return run
