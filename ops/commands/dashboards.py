"""`pelton dashboards`: what Grafana shows of Pelton."""

from typing import Annotated

import typer
from typer import Option

dashboards = typer.Typer(help="Grafana's dashboards of Pelton.", no_args_is_help=True)


@dashboards.command()
def show() -> None:
    """Print the dashboard as JSON, for Grafana's import or its provisioning.

    \b
    For example: pelton dashboards show > pelton.json
    """
    import json

    from ops.dashboards.pushing import need_grafana
    from ops.terminal import say

    need_grafana()
    from ops.dashboards.overview import overview

    say(json.dumps(overview(), indent=2, sort_keys=True))


@dashboards.command()
def push(
    grafana: Annotated[
        str, Option("--grafana", metavar="URL", envvar="PELTON_GRAFANA", help="Where Grafana is.", show_default=True)
    ] = "http://localhost:3000",
) -> None:
    """Make or replace the dashboard in a Grafana.

    PELTON_GRAFANA_TOKEN, or PELTON_GRAFANA_USER and _PASSWORD, say who you are.

    \b
    For example: pelton dashboards push --grafana http://localhost:3000
    """
    import os

    from ops.dashboards.pushing import credential, need_grafana
    from ops.dashboards.pushing import push as to_grafana
    from ops.terminal import say

    need_grafana()
    who = credential(os.environ)
    from ops.dashboards.overview import UID, overview

    for title, address in to_grafana(grafana, who, {UID: overview()}):
        say(f"{title}: {address}")
