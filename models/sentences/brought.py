"""Find a sentence encoder on this machine: in a folder, or in an installed package that holds such a folder.

The folder is as sentence-transformers writes it: `tokenizer.json`, and `model.onnx` or `onnx/model.onnx`, or else
`model.safetensors` with the `config.json` of a BERT, of which Pelton makes a graph by itself. `modules.json` says how
vectors are pooled. Code of a package is never run, and files that hold pickled arrays are not opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from models.bundle import FILE_BYTES_MAX, sha256
from models.sentences.card import TOKENS_MAX, EncoderCard, EncoderError, EncoderParts, Pooling

GRAPHS, ARRAYS, TOKENS, CONFIG = ("model.onnx", "onnx/model.onnx"), "model.safetensors", "tokenizer.json", "config.json"
WITHOUT_MODULES = 256  # tokens that are read if nothing says how many
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max",
}  # fmt: skip


@dataclass(frozen=True)
class Brought:
    """What was found.

    Attributes:
        card: how to use it.
        graph: the bytes of an ONNX file; None where there are only arrays.
        arrays: the bytes of a safetensors file, where there is no graph.
        config: of the arrays.
        tokenizer: the bytes of `tokenizer.json`.
    """

    card: EncoderCard
    graph: bytes | None
    arrays: bytes | None
    config: bytes
    tokenizer: bytes

    def parts(self, graph: bytes | None = None) -> EncoderParts:
        """Return it as it is run, with a graph that was made of the arrays if there was none."""
        model = graph if graph is not None else self.graph
        assert model is not None
        return EncoderParts(self.card, model, self.tokenizer)


def find_encoder(wanted: str) -> Brought:
    """Read an encoder.

    Args:
        wanted: a folder, or the name of an installed package.

    Raises:
        EncoderError: there is none, or it is none that can be used; with what to do.
    """
    folder, name = _folder(wanted)
    read = _Reading(folder)
    tokenizer = read.file(TOKENS)
    if tokenizer is None:
        raise EncoderError(
            f"{folder} has no {TOKENS}; save the encoder with its fast tokeniser: tokenizer.save_pretrained(FOLDER)"
        )
    graph = next((data for each in GRAPHS if (data := read.file(each)) is not None), None)
    arrays = read.file(ARRAYS) if graph is None else None
    if graph is None and arrays is None:
        pickled = " (what is in pytorch_model.bin is pickled, and not opened)"
        raise EncoderError(
            f"{folder} has neither {' nor '.join((*GRAPHS, ARRAYS))}"
            f"{pickled if (folder / 'pytorch_model.bin').exists() else ''}; export it to ONNX: "
            f"optimum-cli export onnx --model NAME --task feature-extraction FOLDER"
        )
    config = read.json(CONFIG) or {}
    if not isinstance(width := config.get("hidden_size"), int):
        raise EncoderError(f"{folder / CONFIG} does not say the hidden_size of the encoder; save it there, too")
    pooling, normalised = _pooling(read)
    card = EncoderCard(name, width, pooling, normalised, _tokens_max(read, config), 0, read.hashes)
    return Brought(card, graph, arrays, read.file(CONFIG) or b"{}", tokenizer)


def _folder(wanted: str) -> tuple[Path, str]:
    """Return the folder, and what to call it."""
    path = Path(wanted)
    if path.is_dir():
        return path, path.resolve().name
    try:
        package = metadata.distribution(wanted)
    except (metadata.PackageNotFoundError, ValueError):
        raise EncoderError(
            f"there is no folder {wanted}, and no package of that name is installed; nothing is ever downloaded while "
            f"Pelton runs: give a folder with {TOKENS} and {GRAPHS[0]} or {ARRAYS}, or install a package that holds one"
        ) from None
    folders = sorted({Path(str(package.locate_file(file))).parent for file in package.files or ()
                      if file.name == TOKENS})  # fmt: skip
    if len(folders) != 1:
        found = f"{len(folders)} folders with a {TOKENS}: {', '.join(map(str, folders))}" if folders else f"no {TOKENS}"
        raise EncoderError(f"the package {wanted} has {found}; give the encoder's folder instead")
    return folders[0], f"{package.metadata['Name']} {package.version}"


class _Reading:
    """Files of a folder, and the hashes of those that were read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: dict[str, str] = {}

    def file(self, name: str) -> bytes | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise EncoderError(
                    f"{path} has {path.stat().st_size:,} bytes; a file of a bundle has at most {FILE_BYTES_MAX:,}: "
                    "bring a smaller encoder"
                )
            data = path.read_bytes()
        except OSError as problem:
            raise EncoderError(f"{path} cannot be read: {problem.strerror or problem}") from None
        self.hashes[name] = sha256(data)
        return data

    def json(self, name: str) -> Any:
        data = self.file(name)
        try:
            return None if data is None else msgspec.json.decode(data)
        except msgspec.DecodeError as problem:
            raise EncoderError(f"{self.folder / name} is no JSON: {problem}; copy it again from its source") from None


def _pooling(read: _Reading) -> tuple[Pooling, bool]:
    """Tell how vectors of tokens become one, and whether that is scaled to length 1: the mean, scaled, if not said."""
    modules = read.json("modules.json")
    if modules is None:
        return "mean", True
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in modules]
    strange = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if strange:
        raise EncoderError(
            f"{read.folder / 'modules.json'} names a layer {strange[0]}, which is not computed here; export the whole "
            "encoder to one ONNX file with an output sentence_embedding, and leave modules.json away"
        )
    place = next(
        (str(each.get("path", "")) for each, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), ""
    )
    told = read.json(f"{place}/{CONFIG}") if place else None
    if told is None:
        return "mean", "Normalize" in kinds
    modes = [name for name, value in told.items() if name.startswith("pooling_mode") and value is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise EncoderError(
            f"{read.folder / place / CONFIG} asks for {' and '.join(modes) or 'no pooling'}; one of "
            f"{', '.join(_POOLINGS)} is computed"
        )
    return _POOLINGS[modes[0]], "Normalize" in kinds


def _tokens_max(read: _Reading, config: dict[str, Any]) -> int:
    told = (read.json("sentence_bert_config.json") or {}).get("max_seq_length")
    places = config.get("max_position_embeddings")
    wanted = told if isinstance(told, int) else WITHOUT_MODULES
    return max(1, min(wanted, places if isinstance(places, int) else wanted, TOKENS_MAX))
