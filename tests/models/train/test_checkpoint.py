import hashlib
import json

import pytest
import torch

from models.train import checkpoint
from models.train.checkpoint import PIECE_BYTES, CheckpointError


def arrays(seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "table": torch.randn(3 * PIECE_BYTES // 4 + 5, generator=chance),  # three pieces and a bit
        "half": torch.randn(4, 3, generator=chance).to(torch.bfloat16),
        "visits": torch.arange(6).view(2, 3),
        "mask": torch.tensor([True, False]),
        "step": torch.tensor(7.0),
        "none": torch.zeros(0, 4),
        "large": torch.randn(7, 11, generator=chance).t(),  # not contiguous
    }


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert torch.equal(found[name], array), name


def test_what_was_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "c", arrays(), {"epoch": 3, "of": ["a"]})
    found, notes = checkpoint.load(tmp_path / "c")
    assert_equal(found, arrays())
    assert notes == {"epoch": 3, "of": ["a"]}


def test_only_what_changed_is_written(tmp_path):
    saved = arrays()
    everything = checkpoint.save(tmp_path, saved, {})
    assert everything == sum(array.nbytes for array in saved.values())
    assert checkpoint.save(tmp_path, saved, {"epoch": 1}) == 0
    saved["table"][0] += 1  # in the first of four pieces
    assert checkpoint.save(tmp_path, saved, {}) == PIECE_BYTES
    assert checkpoint.save(tmp_path, saved | {"best": saved["table"].clone()}, {}) == 0  # the same under another name
    assert_equal(checkpoint.load(tmp_path)[0], saved | {"best": saved["table"]})


def test_what_nothing_needs_is_deleted_and_what_is_left_of_little_is_moved(tmp_path):
    # save   1 writes pieces 0 to 11, 2 writes 1 to 11, 3 writes 2 to 11: of each file one piece stays needed
    table = torch.zeros(12, PIECE_BYTES // 4)
    for save in range(12):
        table[save:] = torch.randn(12 - save, PIECE_BYTES // 4, generator=torch.Generator().manual_seed(save))
        checkpoint.save(tmp_path, {"table": table}, {})
        assert_equal(checkpoint.load(tmp_path)[0], {"table": table})
        on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.pieces"))
        assert on_disk <= 4 * table.nbytes


def test_a_crash_before_the_manifest_leaves_the_checkpoint_of_before(tmp_path):
    checkpoint.save(tmp_path, arrays(), {"epoch": 1})
    (tmp_path / "000002.pieces").write_bytes(b"half of it")
    (tmp_path / "manifest.new").write_text("{")
    assert_equal(checkpoint.load(tmp_path)[0], arrays())
    checkpoint.save(tmp_path, arrays(seed=1), {"epoch": 2})
    assert_equal(checkpoint.load(tmp_path)[0], arrays(seed=1))
    assert not (tmp_path / "000002.pieces").exists()


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_piece_that_is_not_what_was_written_is_refused(tmp_path, damage):
    checkpoint.save(tmp_path, arrays(), {})
    pieces = tmp_path / "000001.pieces"
    content = bytearray(pieces.read_bytes())
    content[100] ^= 1
    pieces.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(CheckpointError, match=r"000001.pieces was changed or torn; delete .* and train from the start"):
        checkpoint.load(tmp_path)


def signed(told: str) -> str:
    return hashlib.sha256(told.encode()).hexdigest() + "\n" + told


def test_a_torn_or_foreign_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*; train from the start, without resuming"):
        checkpoint.load(tmp_path / "nothing")
    for content in (
        "not a checkpoint",
        "[]",
        "{}",
        signed("{}"),
        signed(json.dumps({"pieces": {hashlib.sha256().hexdigest(): ["x", 0, 1]}})),
    ):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"is not a checkpoint .*delete it and train from the start"):
            checkpoint.load(tmp_path)
