"""Users, passwords, certificates and ACLs, against a broker that asks for them; and how each mistake is told."""

import time

import pyarrow as pa
import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)  # fmt: skip

from connectors.kafka.admin import KafkaAdmin, KafkaTopic
from connectors.kafka.errors import KafkaError, NotAllowedError
from connectors.kafka.sending import Sender
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from tests.kafka_broker import USERS, KafkaBroker, fresh
from tests.kafka_certificates import CLIENT

SECONDS_MAX = 8.0  # a refusal is told in seconds, not after minutes of trying


@pytest.fixture(scope="module")
def broker(needs_kafka):
    broker = KafkaBroker(secured=True)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="module")
def topic(broker):
    """A topic that alice and carol may do everything with, and bob nothing."""
    name = fresh("payments")
    with KafkaAdmin(KafkaSettings.read(broker.address, {})) as admin:
        admin.create([KafkaTopic(name, 2)])
    client = KafkaAdminClient(bootstrap_servers=broker.address)
    pattern = ResourcePattern(ResourceType.TOPIC, name)
    client.create_acls([ACL(f"User:{who}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, pattern)
                        for who in ("alice", f"CN={CLIENT}")])  # fmt: skip
    everything = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, ResourcePatternFilter(
        ResourceType.TOPIC, name, ACLResourcePatternType.LITERAL))  # fmt: skip
    while len(client.describe_acls(everything)[0]) < 2:  # until the broker has heard of them
        pass
    client.close()
    return name


def settings(broker, listener, **environment):
    environment = {f"PELTON_KAFKA_{name}": str(value) for name, value in environment.items()}
    return KafkaSettings.read(broker.address_of(listener), environment)


def login(user="alice", password=None, **more):
    return {"USER": user, "PASSWORD": password or USERS[user], **more}


def client_certificate(broker):
    files = broker.certificates
    return {"CA": files.ca, "CERTIFICATE": files.client, "KEY": files.client_key}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_is_let_in_by_each_mechanism(broker, topic, mechanism):
    for listener, more in (
        ("SASL_PLAINTEXT", {"SECURITY": "SASL_PLAINTEXT"}),
        ("SASL_SSL", {"CA": broker.certificates.ca}),
    ):
        with KafkaAdmin(settings(broker, listener, **login(SASL=mechanism), **more)) as admin:
            assert admin.partitions([topic]) == {topic: 2}


def test_a_client_certificate_is_let_in(broker, topic):
    with KafkaAdmin(settings(broker, "SSL", **client_certificate(broker))) as admin:
        assert admin.partitions([topic]) == {topic: 2}


def refused(kind, sentence, to):
    started_s = time.monotonic()
    with pytest.raises(kind, match=sentence) as caught:
        KafkaAdmin(to)
    assert time.monotonic() - started_s < SECONDS_MAX
    assert "secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_a_wrong_user_or_password_is_said(broker, mechanism, user):
    to = settings(broker, "SASL_PLAINTEXT", **login(user, "no secret", SASL=mechanism, SECURITY="SASL_PLAINTEXT"))
    refused(NotAllowedError, f"refuses user '{user}': wrong user or password; check PELTON_KAFKA_USER", to)


def test_a_user_without_rights_is_told_what_to_allow(broker, topic):
    to = settings(broker, "SASL_PLAINTEXT", **login("bob", SECURITY="SASL_PLAINTEXT"))
    with KafkaAdmin(to) as admin:
        with pytest.raises(NotAllowedError, match=f"user 'bob' may not look at topic '{topic}'; allow it with an ACL"):
            admin.describe([topic])
        with pytest.raises(NotAllowedError, match=r"user 'bob' may not look at topic 'bobs'; .* on the topic"):
            admin.create([KafkaTopic("bobs")])
        with pytest.raises(NotAllowedError, match=r"user 'bob' may not read the offsets of group 'g'; .* on the group"):
            admin.committed("g")


def test_a_user_who_may_only_look_cannot_write(broker, topic):
    to = settings(broker, "SASL_PLAINTEXT", **login("bob", SECURITY="SASL_PLAINTEXT"))
    with pytest.raises(LogError, match=f"user 'bob' may not write to topic '{topic}'; allow it with an ACL"):
        _send_one(to, topic)


def _send_one(to, topic):
    with Sender(to, topic, 2) as sender:
        sender.send(pa.array([b"{}"], pa.large_binary()), None, 1)


def test_a_user_who_may_write_writes_over_tls(broker, topic):
    to = settings(broker, "SASL_SSL", **login(), CA=broker.certificates.ca)
    with KafkaAdmin(to) as admin:
        before = sum(admin.ends([topic]).values())
        with Sender(to, topic, 2) as sender:
            sender.send(pa.array([b"{}"] * 10, pa.large_binary()), pa.array(["k"] * 10, pa.large_string()), 1)
        assert sum(admin.ends([topic]).values()) == before + 10


def test_an_authority_that_is_not_trusted_is_said(broker):
    to = settings(broker, "SASL_SSL", **login(), CA=broker.certificates.other_ca)
    refused(NotAllowedError, r"is not trusted by .*other-ca.pem; set PELTON_KAFKA_CA to the authority", to)


def test_a_broker_that_asks_for_a_certificate_is_said(broker):
    to = settings(broker, "SSL", CA=broker.certificates.ca)
    refused(KafkaError, "client certificate", to)


def test_the_port_of_another_listener_is_said(broker):
    refused(NotAllowedError, "asks for no password", settings(broker, "PLAINTEXT", **login(SECURITY="SASL_PLAINTEXT")))
    refused(KafkaError, "SSL listener", settings(broker, "PLAINTEXT", CA=broker.certificates.ca))
    for listener in ("SSL", "SASL_PLAINTEXT"):
        refused(KafkaError, "this is the port of its PLAINTEXT listener", settings(broker, listener))
