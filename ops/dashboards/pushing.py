"""Brings our dashboards to a Grafana."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grafana_client.api import GrafanaApi

FOLDER_UID, FOLDER = "pelton", "Pelton"
TIMEOUT_S = 10.0
Credential = str | tuple[str, str]


class GrafanaError(ValueError):
    """Grafana did not take the dashboards; the message says why and what to do."""


def need_grafana() -> None:
    """Refuse to begin without the packages of the extra `grafana`.

    Raises:
        GrafanaError: one is missing; with the command that brings it.
    """
    missing = [name for name in ("grafana_client", "grafana_foundation_sdk") if find_spec(name) is None]
    if missing:
        raise GrafanaError(
            f"{', '.join(missing)} not installed, and dashboards are made with it; run: pip install 'pelton[grafana]'"
        )


def credential(environment: Mapping[str, str]) -> Credential:
    """Return a token, or user and password, from PELTON_GRAFANA_TOKEN or PELTON_GRAFANA_USER and _PASSWORD.

    Raises:
        GrafanaError: there is neither.
    """
    if token := environment.get("PELTON_GRAFANA_TOKEN"):
        return token
    user, password = environment.get("PELTON_GRAFANA_USER"), environment.get("PELTON_GRAFANA_PASSWORD")
    if user and password:
        return user, password
    raise GrafanaError(
        "nothing says who you are for Grafana; set PELTON_GRAFANA_TOKEN to a service account's token, "
        "or PELTON_GRAFANA_USER and PELTON_GRAFANA_PASSWORD"
    )


def push(url: str, who: Credential, dashboards: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Make or replace dashboards in a folder of ours; return title and address of each.

    Args:
        url: of Grafana, http://localhost:3000.
        who: token, or user and password.
        dashboards: uid -> Grafana's JSON. What somebody changed in Grafana is replaced; its history keeps it.

    Raises:
        GrafanaError: it cannot be reached, or refuses.
    """
    from grafana_client.api import GrafanaApi
    from grafana_client.client import GrafanaException
    from niquests.exceptions import RequestException

    grafana = GrafanaApi.from_url(url, credential=who, timeout=TIMEOUT_S)
    try:
        _need_folder(grafana)
        addresses = []
        for dashboard in dashboards.values():
            saved = grafana.dashboard.update_dashboard(
                {"dashboard": dict(dashboard), "folderUid": FOLDER_UID, "overwrite": True, "message": "pelton"}
            )
            addresses.append((str(dashboard["title"]), url.rstrip("/") + str(saved.get("url", ""))))
        return addresses
    except GrafanaException as error:
        raise GrafanaError(f"Grafana at {url} refused: {_advice(error.status_code, str(error.message))}") from None
    except (RequestException, OSError) as error:
        raise GrafanaError(f"Grafana at {url} cannot be reached ({_first(error)}); is it running there?") from None


def _need_folder(grafana: GrafanaApi) -> None:
    from grafana_client.client import GrafanaClientError

    try:
        grafana.folder.get_folder(FOLDER_UID)
    except GrafanaClientError as error:
        if error.status_code != 404:
            raise
        grafana.folder.create_folder(FOLDER, uid=FOLDER_UID)


def _advice(status: int, message: str) -> str:
    if status == 401:
        return "it does not know this token or password; check PELTON_GRAFANA_TOKEN, or user and password"
    if status == 403:
        return "the token may not write dashboards; give its service account the role Editor"
    return message


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
