"""Keys, tokens and seals."""

import base64
import os

import pyarrow as pa
import pytest

from connectors.secrets import Sealer, SecretError, Tokeniser, load_or_create_key, parse_key

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


def test_equal_values_have_equal_tokens_in_every_batch_and_process():
    tokens = Tokeniser(KEY).tokens("card", pa.array(["4000", None, "4001", "4000"])).to_pylist()
    assert tokens[0] == tokens[3] == "card_a0a63ef47f337f7eecee08a497896808"  # pinned: stored tokens must stay valid
    assert tokens[1] is None
    assert tokens[2] != tokens[0]
    assert Tokeniser(KEY).token("card", "4000") == tokens[0]


def test_tokens_differ_by_class_and_key():
    assert Tokeniser(KEY).token("email", "4000")[6:] != Tokeniser(KEY).token("card", "4000")[5:]
    assert Tokeniser(OTHER_KEY).token("card", "4000") != Tokeniser(KEY).token("card", "4000")


def test_forgetting_tokens_changes_none():
    values = pa.array([str(i % 50) for i in range(500)])
    small, large = Tokeniser(KEY, kept=7), Tokeniser(KEY)
    for start in range(0, 500, 40):
        part = values[start : start + 40]
        assert small.tokens("card", part).equals(large.tokens("card", part))
    assert len(small._known["card"]) == 7


def test_columns_of_any_text_type():
    plain = Tokeniser(KEY).tokens("card", pa.array(["a", "ü", None]))
    for column in (pa.array(["a", "ü", None], pa.large_string()), pa.array(["a", "ü", None]).dictionary_encode(),
                   pa.array(["x", "a", "ü", None])[1:]):  # fmt: skip
        assert Tokeniser(KEY).tokens("card", column).equals(plain)
    assert Tokeniser(KEY).tokens("card", pa.array([], pa.string())).to_pylist() == []


def test_sealed_bytes_open_with_the_same_key_and_context_only():
    sealed = Sealer(KEY).seal(b'{"card":"4000"}', b"payments 7")
    assert b"4000" not in sealed
    assert Sealer(KEY).seal(b'{"card":"4000"}', b"payments 7") != sealed  # another nonce
    assert Sealer(KEY).open(sealed, b"payments 7") == b'{"card":"4000"}'
    for sealer, context in ((Sealer(OTHER_KEY), b"payments 7"), (Sealer(KEY), b"payments 8")):
        with pytest.raises(SecretError, match="another key sealed it, or it was changed"):
            sealer.open(sealed, context)


@pytest.mark.parametrize("place", [1, 13, 20, -1])
def test_a_changed_bit_is_found(place):
    sealed = bytearray(Sealer(KEY).seal(b"0123456789"))
    sealed[place] ^= 1
    with pytest.raises(SecretError, match="does not open"):
        Sealer(KEY).open(bytes(sealed))


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x02" + bytes(40), b'{"card":"4000"}'])
def test_bytes_that_nobody_sealed(sealed):
    with pytest.raises(SecretError, match="were not sealed by this version"):
        Sealer(KEY).open(sealed)


def test_a_key_is_32_bytes_of_base64():
    assert parse_key(base64.b64encode(KEY).decode() + "\n") == KEY
    with pytest.raises(SecretError, match="PELTON_KEY is not base64; make one with: openssl rand -base64 32"):
        parse_key("not base64!")
    with pytest.raises(SecretError, match="PELTON_KEY has 3 bytes and needs 32"):
        parse_key("YWJj")
    with pytest.raises(SecretError, match="the key has 3 bytes and needs 32"):
        Sealer(b"abc")


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "keys" / "demo.key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert load_or_create_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["demo.key"]


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "demo.key"
    load_or_create_key(path)
    path.chmod(0o644)
    with pytest.raises(SecretError, match=r"can be read by others \(mode 644\); run: chmod 600 .*demo.key"):
        load_or_create_key(path)


def test_a_key_file_that_holds_no_key(tmp_path):
    path = tmp_path / "demo.key"
    path.touch(0o600)
    with pytest.raises(SecretError, match=r"demo.key has 0 bytes and needs 32"):
        load_or_create_key(path)


def test_a_key_file_where_none_can_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SecretError, match=r"cannot be (read|written)"):
        load_or_create_key(tmp_path / "file" / "demo.key")


def test_neither_shows_its_key():
    assert repr(Tokeniser(KEY)) == "Tokeniser(...)"
    assert repr(Sealer(KEY)) == "Sealer(...)"
