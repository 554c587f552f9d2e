"""Whatever a network reads, a graph that routes otherwise than torch is not written, however rare the case."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models import export, export_images, export_texts
from models.features import FeatureSpec
from models.moe.image import ImageSizes, image_branch
from models.moe.network import Branch, MoENetwork, event_network
from models.moe.settings import MoESettings
from models.moe.text import ClassHead, TextEncoder, TextSettings
from models.onnx_export import Exported, ExportError, Form, Probes, checked
from models.text.inputs import TextInputs

SIZES = MoESettings(width=16, heads=2, experts=4, expert_width=8, shared_width=8, bins=2, waves=2, members=2, buckets=8)
SPECS = [FeatureSpec("amount", group="a"), FeatureSpec("shop", "category", "b"), FeatureSpec("x_1", group="s", step=1)]
TEXT = TextSettings(buckets=64, pieces=32, pieces_max=12)
CHANCE = np.random.default_rng(3)
ROWS = CHANCE.normal(size=(40, 3)).round(2)
PIXELS = CHANCE.integers(0, 256, (9, 64, 64, 1)).astype(np.uint8)
MESSAGES = TextInputs(*(CHANCE.integers(1, most, (9, 6)) for most in (64, 64, 32)))  # all of one length


class Kind(NamedTuple):
    """A network, its export, and what the gate tried."""

    network: MoENetwork
    exported: Exported
    form: Form
    probes: Probes

    def graph(self):
        return onnx.load_from_string(self.exported.file)


def stirred(network):
    torch.manual_seed(4)
    with torch.no_grad():
        for array in (*network.parameters(), *network.buffers()):  # of equal arrays the export keeps one
            if array.is_floating_point():
                array += 0.05 * torch.randn_like(array)
        for router in network.routers():
            router.bias[-1] = -1e3  # an expert that nothing visits, as trainings leave some
    return network.eval()


def events(folder):
    network = stirred(event_network(SPECS, SIZES))
    exported = export.export(network, folder / "moe.onnx", ROWS)
    return Kind(network, exported, export.FORM, export.probes(ROWS, SPECS, np.random.default_rng(0)))


def images(_):
    network = stirred(MoENetwork({"defect": image_branch(1, 2, ImageSizes(4, 8))}, SIZES))
    return Kind(network, export_images.export_images(network, PIXELS), export_images.FORM, export_images.probes(PIXELS))


def texts(_):
    branch = Branch(partial(TextEncoder, TEXT), partial(ClassHead, (5, 3), 0.5))
    network = stirred(MoENetwork({"support": branch}, SIZES))
    exported = export_texts.export_texts(network, MESSAGES)
    table = network.encoders[0].bag.table
    table.data = table.data.half().float()
    return Kind(network, exported, export_texts.form_of(TEXT), export_texts.probes(MESSAGES, TEXT))


@pytest.fixture(scope="module", params=[events, images, texts], ids=lambda make: make.__name__)
def kind(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("export"))


def test_routers_are_bent_for_every_kind_in_batches_of_one_and_more(kind):
    outputs, batches = kind.form.outputs, list(kind.probes.routed)
    assert batches[0] == "batch 1"
    assert len(batches) == 3
    hard = ("ties", "an empty expert", "all to one expert")
    expected = {f"{out}, {bend}, {batch}" for out in outputs for bend in hard for batch in batches}
    expected |= {f"{out}, {case}" for out in outputs for case in kind.probes.cases}
    assert set(kind.exported.differences) == expected
    assert max(kind.exported.differences.values()) <= 1e-5
    assert kind.exported.in_words().startswith("0.")


def test_a_graph_that_breaks_ties_otherwise_is_refused(kind):
    model = kind.graph()
    for node in model.graph.node:
        if node.op_type == "ArgMax":
            next(each for each in node.attribute if each.name == "select_last_index").i = 1
    checked(kind.network, model, kind.form, replace(kind.probes, routed={}))  # real inputs have no ties
    with pytest.raises(ExportError, match=r"differ by .* in (logits|evidence), ties, batch"):
        checked(kind.network, model, kind.form, kind.probes)


def test_a_wrong_expert_that_no_input_visits_is_refused(kind):
    model = kind.graph()
    idle = [block.experts.up[-1].detach().numpy() for block in kind.network.trunk.blocks]
    spoilt = 0
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer).copy()
        last = array if array.ndim == 2 else array[-1] if array.ndim == 3 else None  # small experts stand alone
        if last is not None and any(np.array_equal(last, each) for each in idle):
            last *= 2
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
            spoilt += 1
    assert spoilt == len(idle)
    checked(kind.network, model, kind.form, replace(kind.probes, routed={}))
    with pytest.raises(ExportError, match=r"in logits, all to one expert, batch"):
        checked(kind.network, model, kind.form, kind.probes)


@pytest.mark.parametrize("kind", [texts], indirect=True, ids=["texts"])
def test_a_graph_that_looks_at_padding_is_refused_in_a_batch_of_one_too(kind):
    routed = kind.probes.routed
    assert all((pieces[:, -1] == 0).all() for _, _, pieces in routed.values())
    assert not routed["batch 8"][2][-1].any()
    model = kind.graph()
    masks = [node for node in model.graph.node if node.op_type == "Greater" and node.input[0] == "pieces"]
    assert masks
    for node in masks:
        node.op_type = "GreaterOrEqual"
    real = {name: case for name, case in kind.probes.cases.items() if name.startswith("batch")}
    checked(kind.network, model, kind.form, Probes(real, {}))  # messages of one length have no padding
    with pytest.raises(ExportError, match=r"in logits, .*, batch 1;"):
        checked(kind.network, model, kind.form, Probes(real, {"batch 1": routed["batch 1"]}))


def test_nothing_to_try_a_graph_on_is_told():
    network = MoENetwork({"defect": image_branch(1, 2, ImageSizes(4, 8))}, SIZES)
    with pytest.raises(ExportError, match="the parity gate got no images; give it at least one"):
        export_images.export_images(network, PIXELS[:0])
    with pytest.raises(ExportError, match="the parity gate got no messages; give it at least one"):
        export_texts.export_texts(network, MESSAGES.rows(np.arange(0)))
