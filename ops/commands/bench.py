"""`pelton bench`."""

from typing import Annotated

from typer import Argument, Option


def bench(
    names: Annotated[list[str] | None, Argument(metavar="NAME", help="Which benchmarks; all, if none.")] = None,
    quick: Annotated[bool, Option("--quick", help="Small sizes: seconds instead of minutes.")] = False,
) -> None:
    """Measure how fast this machine runs; the last line is JSON.

    \b
    For example: pelton bench --quick
    """
    from ops.bench import bench as measure
    from ops.terminal import ready_kernels

    ready_kernels()
    measure(names or [], quick=quick)
