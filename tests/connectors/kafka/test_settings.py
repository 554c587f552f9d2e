"""Where Kafka is and how to be let in: what fits together, what is told, and that no secret is."""

import re
import ssl

import pytest

from connectors.kafka.settings import KafkaSettings, KafkaSettingsError, parse_brokers
from tests.kafka_certificates import Certificates

USER = {"PELTON_KAFKA_USER": "alice", "PELTON_KAFKA_PASSWORD": "hush"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_without_settings_the_line_is_plain():
    plain = KafkaSettings.read("localhost", {})
    assert plain.aiokafka() == {
        "bootstrap_servers": ["localhost:9092"], "client_id": "pelton", "security_protocol": "PLAINTEXT"
    }  # fmt: skip
    assert plain.faust() == {"broker": ["kafka://localhost:9092"], "broker_client_id": "pelton"}


def test_a_user_alone_means_an_encrypted_line_and_a_password_that_is_not_sent():
    settings = KafkaSettings.read("b:1", USER)
    assert (settings.security, settings.mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    assert isinstance(settings.kafka_python()["ssl_context"], ssl.SSLContext)


def test_a_certificate_alone_means_tls(files):
    environment = {"PELTON_KAFKA_CA": str(files.ca), "PELTON_KAFKA_CERTIFICATE": str(files.client),
                   "PELTON_KAFKA_KEY": str(files.client_key)}  # fmt: skip
    settings = KafkaSettings.read("b:1", environment)
    assert settings.security == "SSL"
    assert settings.faust()["broker_credentials"].context.check_hostname


def test_no_secret_is_shown(files):
    settings = KafkaSettings.read("b:1", {**USER, "PELTON_KAFKA_KEY_PASSWORD": "hush"})
    shown = [repr(settings), repr(settings.aiokafka()), repr(settings.faust()["broker_credentials"])]
    assert not [text for text in shown if "hush" in text]
    assert settings.aiokafka()["sasl_plain_password"] == "hush"
    assert settings.faust()["broker_credentials"].password == "hush"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SECURITY": "TLS"}, "PELTON_KAFKA_SECURITY is 'TLS'; choose PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
        ({"SASL": "MD5"}, "PELTON_KAFKA_SASL is 'MD5'; choose PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        ({"SECURITY": "SASL_SSL"}, "PELTON_KAFKA_SECURITY is SASL_SSL and needs a user; set PELTON_KAFKA_USER"),
        ({"USER": "alice"}, "user 'alice' has no password; set PELTON_KAFKA_PASSWORD"),
        ({"USER": "a", "PASSWORD": "hush", "SECURITY": "SSL"}, "PELTON_KAFKA_SECURITY is SSL; choose SASL_SSL, or"),
        ({"CA": "/nowhere.pem"}, "PELTON_KAFKA_CA: there is no file /nowhere.pem; check the path"),
    ],
)
def test_what_does_not_fit_together_is_said(environment, sentence):
    with pytest.raises(KafkaSettingsError, match=re.escape(sentence)) as caught:
        KafkaSettings.read("b:1", {f"PELTON_KAFKA_{name}": value for name, value in environment.items()})
    assert "hush" not in str(caught.value)


def test_certificates_without_tls_are_refused(files):
    environment = {"PELTON_KAFKA_CA": str(files.ca), "PELTON_KAFKA_SECURITY": "PLAINTEXT"}
    with pytest.raises(KafkaSettingsError, match="certificates are set, but PELTON_KAFKA_SECURITY is PLAINTEXT"):
        KafkaSettings.read("b:1", environment)
    with pytest.raises(KafkaSettingsError, match="KEY is set without its certificate"):
        KafkaSettings.read("b:1", {"PELTON_KAFKA_KEY": str(files.ca), "PELTON_KAFKA_SECURITY": "SSL"})


def test_a_file_that_is_no_certificate_is_named(files, tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(KafkaSettingsError, match=r"PELTON_KAFKA_CA: .*empty.pem cannot be used as such; give a PEM"):
        KafkaSettings.read("b:1", {"PELTON_KAFKA_CA": str(empty)}).ssl_context()
    swapped = {"PELTON_KAFKA_CERTIFICATE": str(files.client), "PELTON_KAFKA_KEY": str(files.broker)}
    with pytest.raises(KafkaSettingsError, match=r"client.pem with the key .*broker.pem cannot be used as such"):
        KafkaSettings.read("b:1", swapped).ssl_context()


@pytest.mark.parametrize("text", ["host:x", "host:70000", ":9092", "http://host:1", "me:hush@host:1"])
def test_a_broker_is_host_and_port(text):
    with pytest.raises(KafkaSettingsError, match=r"is not host:port; write, for example, localhost:9092") as caught:
        parse_brokers(text)
    assert "hush" not in str(caught.value)


def test_no_broker_at_all_is_said():
    with pytest.raises(KafkaSettingsError, match="no broker is named"):
        parse_brokers(" , ")
