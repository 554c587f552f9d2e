"""A network on images of the sizes that are trained fits into a bundle, and in 8 bits onto a device at the line."""

from models.moe.image import ImageSizes, image_branch
from models.moe.network import MoENetwork
from models.onnx_export import LARGEST_BYTES
from ops.edge import EDGE_BYTES_MAX
from ops.training.defect_training import SIZES

GRAPH_BYTES = 250_000  # names and nodes, beside the weights
CLASSES = 100


def test_the_network_fits_where_it_is_to_go():
    network = MoENetwork({"defect": image_branch(3, CLASSES, ImageSizes(), None)}, SIZES)
    numbers = sum(array.numel() for array in network.state_dict().values())
    assert 4 * numbers + GRAPH_BYTES < LARGEST_BYTES
    assert numbers + GRAPH_BYTES < EDGE_BYTES_MAX
