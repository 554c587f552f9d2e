"""A defect bundle for a device at the line: small, nearly the same answers, and nothing but numpy and onnxruntime."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bundle import BundleError, BundleMeta, write_bundle
from models.defect_scorer import defect_parts
from models.defects import CARD as CARD_FILE
from models.defects import NETWORK, DefectModel, open_folder
from models.edge import in_eight_bits
from ops.edge import write_edge
from tests.dark_spots import CARD, dark_spots, spotted

CHANCE = np.random.default_rng(8)
WEIGHTS = {
    "conv": CHANCE.normal(size=(32, 4, 3, 3)) * np.geomspace(0.01, 1, 32)[:, None, None, None],
    "experts": CHANCE.normal(size=(4, 32, 16)) * np.geomspace(0.01, 1, 4)[:, None, None],
    "blocks.0.router.weight": CHANCE.normal(size=(32, 64)),
    "little": CHANCE.normal(size=(16, 8)),
}


OUTPUTS = {"y": [4, "n", 8], "routed": ["n", 64]}


def network() -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["seen", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "experts"], ["each"]),
        helper.make_node("MatMul", ["each", "little"], ["y"]),
        helper.make_node("MatMul", ["mean", "blocks.0.router.weight"], ["routed"]),
    ]
    arrays = {name: array.astype(np.float32) for name, array in WEIGHTS.items()} | {"axes": np.array([2, 3])}
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in OUTPUTS.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def run(model: bytes, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["y", "routed"], {"x": x})


def test_weights_are_rounded_to_a_scale_of_each_output():
    small = onnx.load_from_string(in_eight_bits(network()))
    arrays = {each.name: numpy_helper.to_array(each) for each in small.graph.initializer}
    for name, axes in (("conv", (1, 2, 3)), ("experts", (1,))):
        scale = np.abs(WEIGHTS[name]).max(axis=axes, keepdims=True) / 127  # the slow twin
        np.testing.assert_allclose(arrays[f"{name}.scale"], scale, rtol=1e-6)
        error = np.abs(arrays[f"{name}.q"] * arrays[f"{name}.scale"] - WEIGHTS[name])
        assert arrays[f"{name}.q"].dtype == np.int8
        assert (error <= scale * 0.5001).all()
    for name in ("blocks.0.router.weight", "little"):
        np.testing.assert_array_equal(arrays[name], WEIGHTS[name].astype(np.float32))


def test_answers_are_nearly_the_same_and_routing_is_no_less_exact():
    x = CHANCE.normal(size=(16, 4, 8, 8)).astype(np.float32)
    was, small = network(), in_eight_bits(network())
    assert len(small) < len(was)
    for before, after in zip(run(was, x), run(small, x), strict=True):
        assert np.abs(after - before).max() < 0.03 * np.abs(before).max()


@pytest.fixture
def edge(tmp_path):
    bundle = write_bundle(tmp_path / "b", defect_parts(dark_spots(), CARD), BundleMeta("x", "defect", 0))
    made = write_edge(bundle, tmp_path / "edge")
    assert (made.changed, made.size_bytes < 3_000_000) == (0, True)
    return made.folder


def test_the_folder_scores_like_the_bundle(edge):
    images = np.stack([spotted(dark) for dark in (None, 10, 50)])[..., None]
    expected = DefectModel(dark_spots(), CARD).score(images)
    np.testing.assert_array_equal(open_folder(edge).score(images).classes, expected.classes)
    assert {path.name for path in edge.iterdir()} == {NETWORK, CARD_FILE, "defects.py"}


def test_it_runs_on_numpy_and_onnxruntime_alone(edge, tmp_path):
    np.save(tmp_path / "images.npy", np.stack([spotted(None), spotted(10)]))
    code = (
        "import runpy, sys; sys.argv[0] = sys.argv[1]; del sys.argv[1]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "brought = {'msgspec', 'pyarrow', 'PIL', 'torch', 'onnx', 'models', 'pipeline', 'numba'} & set(sys.modules)\n"
        "assert not brought, brought"
    )
    command = [sys.executable, "-I", "-c", code, str(edge / "defects.py"), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["defect"], each["alert"]) for each in said] == [("none", False), ("pit", True)]


def test_a_network_that_stays_too_large_is_refused(tmp_path):
    model = onnx.load_from_string(dark_spots())
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2000, 2000), np.float32), "ballast"))
    parts = defect_parts(model.SerializeToString(), CARD)
    bundle = write_bundle(tmp_path / "b", parts, BundleMeta("x", "defect", 0))
    with pytest.raises(BundleError, match="bytes in 8 bits, more than 3,000,000; train a smaller one"):
        write_edge(bundle, tmp_path / "edge")


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    bundle = write_bundle(tmp_path / "bundle", {"support.json": b"{}"}, BundleMeta("support", "support", 0))
    with pytest.raises(
        BundleError, match=r"is of 'support', which looks at no images; only the network of a task on im"
    ):
        write_edge(bundle, tmp_path / "edge")
