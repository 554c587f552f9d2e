"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

App = Annotated[str, Argument(metavar="APP", help="The app's file, bank.py, or bank.py:NAME if it holds several.")]
DataFolder = Annotated[
    Path | None,
    Option("--data-folder", metavar="DIR", help="Log, models, state, key; PELTON_DATA or .pelton.", show_default=False),
]  # fmt: skip
State = Annotated[
    str | None,
    Option(
        "--state", metavar="URL", show_default=False,
        help="Where snapshots of state go: a folder or s3://, gs://, abfs://...; PELTON_STATE or in the data folder.",
    ),
]  # fmt: skip
Gpu = Annotated[
    str | None,
    Option(
        "--gpu", metavar="CHOICE", show_default=False,
        help="Compute networks on a GPU: never, prefer (else a CPU) or require (else stop); PELTON_GPU or never.",
    ),
]  # fmt: skip
SomeInputs = Annotated[
    list[str] | None,
    Option(
        "--input", "-i", metavar="FILE", show_default=False,
        help="JSON lines, CSV (both also .gz) or Parquet, in arrival order; NAME=FILE says of which stream.",
    ),
]  # fmt: skip
Data = Annotated[
    list[str],
    Option(
        "--data", "--input", "-i", metavar="FILE", show_default=False,
        help="History, in arrival order; NAME=FILE says of which stream.",
    ),
]  # fmt: skip
SomeData = Annotated[
    list[str] | None,
    Option(
        "--data", "--input", "-i", metavar="FILE", show_default=False,
        help="Events to look at, with --app; NAME=FILE says of which stream.",
    ),
]  # fmt: skip
Encoder = Annotated[
    str | None,
    Option(
        "--encoder", metavar="FOLDER|PACKAGE", show_default=False,
        help="Tasks on texts also read with this sentence encoder: tokenizer.json and model.onnx or model.safetensors.",
    ),
]  # fmt: skip
TaskOption = Annotated[
    str | None, Option("--task", metavar="TASK", help="Which task, if the app has several.", show_default=False)
]
Kafka = Annotated[
    str | None,
    Option(
        "--kafka", metavar="BROKERS", envvar="PELTON_KAFKA_BROKERS", show_default=False,
        help="Use Kafka, host:port of one broker or several with commas; not the log of this machine.",
    ),
]  # fmt: skip
MetricsPort = Annotated[
    int,
    Option(
        "--metrics-port", metavar="PORT", envvar="PELTON_METRICS_PORT", min=0, max=65535, show_default=False,
        help="Serve /metrics for Prometheus and /healthz at this port; none if 0.",
    ),
]  # fmt: skip
MetricsHost = Annotated[
    str,
    Option(
        "--metrics-host", metavar="HOST", envvar="PELTON_METRICS_HOST",
        help="Who may ask: this machine only, or 0.0.0.0 for all.",
    ),
]  # fmt: skip
