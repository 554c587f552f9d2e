"""A network on texts of the sizes that are trained fits into a bundle, beside a large knowledge base."""

import numpy as np
import pytest

from models.moe.network import MoENetwork
from models.moe.settings import MoESettings
from models.moe.text import TextSettings
from models.onnx_export import LARGEST_BYTES
from models.text.inputs import TextInputs
from models.train.texts import TextChoices, TextData
from ops.training.support_training import SIZES, SIZES_QUICK

ARTICLES_BYTES = 1_000_000


@pytest.mark.parametrize("sizes", [SIZES, SIZES_QUICK])
def test_the_network_leaves_room_for_articles(sizes):
    inputs = TextInputs(*(np.zeros((70, 1), np.int64) for _ in range(3)))
    held = np.arange(70) < 2
    data = TextData(
        inputs, np.zeros(70, np.int64), np.zeros(70, np.int64), (100, 5), held, TextChoices(), TextSettings()
    )
    network = MoENetwork({"support": data.branch(None)}, MoESettings(**sizes))
    arrays = network.state_dict()
    table = arrays["encoders.0.bag.table"].numel() * 2  # stored in half precision
    assert sum(array.nbytes for array in arrays.values()) - table < LARGEST_BYTES - ARTICLES_BYTES
