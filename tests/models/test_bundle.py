"""Bundles: the same content has the same id, and nothing damaged, unsafe or unbounded is ever read."""

import msgspec
import pytest

from models.bundle import BundleError, BundleMeta, read_bundle, write_bundle

META = BundleMeta("risk moe v1", "risk", 1_700_000_000_000, {"command": "pelton train", "seed": 7}, {"auc": 0.88})
PARTS = {"model.onnx": b"weights", "task.json": b"{}"}


def rewrite_manifest(folder, **changes):
    manifest = msgspec.json.decode((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_bytes(msgspec.json.encode({**manifest, **changes}))


def test_a_bundle_is_read_as_it_was_written(tmp_path):
    written = write_bundle(tmp_path / "b", PARTS, META)
    read = read_bundle(tmp_path / "b")
    assert read == written
    assert read.parts == PARTS
    assert read.part("task.json") == b"{}"
    assert read.meta == META
    assert len(read.id) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]  # nothing unfinished stays behind


def test_the_id_depends_on_the_files_alone(tmp_path):
    first = write_bundle(tmp_path / "a", PARTS, META)
    same = write_bundle(tmp_path / "b", dict(reversed(PARTS.items())), BundleMeta("other", "risk", 5))
    other = write_bundle(tmp_path / "c", {**PARTS, "task.json": b"[]"}, META)
    assert first.id == same.id != other.id


def test_writing_again_is_fine_and_overwriting_another_is_not(tmp_path):
    write_bundle(tmp_path / "b", PARTS, META)
    write_bundle(tmp_path / "b", PARTS, META)
    with pytest.raises(BundleError, match="holds another bundle already; write to a new folder"):
        write_bundle(tmp_path / "b", {"model.onnx": b"other"}, META)


def test_a_damaged_file_is_named_with_what_was_expected_and_found(tmp_path):
    bundle = write_bundle(tmp_path / "b", PARTS, META)
    (tmp_path / "b" / "model.onnx").write_bytes(b"weightz")
    expected = (
        f"model.onnx is damaged: expected SHA-256 {bundle.files['model.onnx'][:12]}, found [0-9a-f]{{12}}; copy it"
    )
    with pytest.raises(BundleError, match=expected):
        read_bundle(tmp_path / "b")


def test_a_missing_file_is_named(tmp_path):
    write_bundle(tmp_path / "b", PARTS, META)
    (tmp_path / "b" / "task.json").unlink()
    with pytest.raises(BundleError, match=r"task\.json cannot be read \(No such file or directory\); copy the bundle"):
        read_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read"):
        read_bundle(tmp_path / "nowhere")


def test_a_manifest_that_does_not_fit_is_refused(tmp_path):
    write_bundle(tmp_path / "b", PARTS, META)
    rewrite_manifest(tmp_path / "b", id="0" * 12)
    with pytest.raises(BundleError, match=r"says id 000000000000, its files make [0-9a-f]{12}"):
        read_bundle(tmp_path / "b")
    rewrite_manifest(tmp_path / "b", format="x")
    with pytest.raises(BundleError, match="has format 'x'; this version reads pelton-bundle-1"):
        read_bundle(tmp_path / "b")
    (tmp_path / "b" / "bundle.json").write_bytes(b"{")
    with pytest.raises(BundleError, match="cannot be read: "):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", ".hidden", "a/b", "", "x" * 65, "ä", "a.", "a\n"])
def test_names_that_could_leave_the_folder_are_refused_in_both_directions(tmp_path, name):
    with pytest.raises(BundleError, match="no safe file name"):
        write_bundle(tmp_path / "b", {name: b""}, META)
    assert not (tmp_path / "b").exists()
    write_bundle(tmp_path / "b", PARTS, META)
    rewrite_manifest(tmp_path / "b", files={name: "0" * 64})
    with pytest.raises(BundleError, match="no safe file name"):
        read_bundle(tmp_path / "b")


def test_names_that_clash_are_refused(tmp_path):
    for parts in ({"a": b"", "A": b""}, {"Bundle.json": b""}):
        with pytest.raises(BundleError, match="clash"):
            write_bundle(tmp_path / "b", parts, META)


def test_an_empty_and_a_crowded_bundle_are_refused(tmp_path):
    for count in (0, 65):
        with pytest.raises(BundleError, match=f"a bundle has 1 to 64 files, this one {count}"):
            write_bundle(tmp_path / "b", {f"f{i}": b"" for i in range(count)}, META)


def test_a_link_is_not_followed(tmp_path):
    write_bundle(tmp_path / "b", PARTS, META)
    (tmp_path / "elsewhere").write_bytes(b"weights")
    (tmp_path / "b" / "model.onnx").unlink()
    (tmp_path / "b" / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"model\.onnx is a link; a bundle holds plain files only"):
        read_bundle(tmp_path / "b")


def test_an_unknown_part_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(BundleError, match=r"has no 'rules'; it has model\.onnx, task\.json"):
        write_bundle(tmp_path / "b", PARTS, META).part("rules")
