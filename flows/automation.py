"""What a Prefect server needs besides the deployments: ``python -m flows.automation``.

    python -m flows.automation pools     # before `prefect deploy`: work pools, the limit of one GPU training
    prefect --no-prompt deploy --all
    python -m flows.automation events    # after it: drift asks for a retrain, and gets one

Run it as often as you like: what is there already is brought up to date, nothing is made twice.
"""

import argparse
import sys
from datetime import timedelta

import httpx

from pipeline.errors import StateError, VisionloopError

__all__ = ["DRIFT_OPENED", "RETRAIN_REQUESTED", "connect", "prepare"]

DRIFT_OPENED = "visionloop.drift.opened"
RETRAIN_REQUESTED = "visionloop.retrain.requested"
NAME = "visionloop: labels are back, retrain"
POOLS = ("local", "gpu")
DEBOUNCE = timedelta(minutes=10)
"""Shorter than the watch's quarter of an hour: a request that got lost comes again with its next look."""


def prepare() -> list[str]:
    """Make the work pools and the concurrency limit of the tag ``gpu``; what was made, in words."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    made = []
    with get_client(sync_client=True) as client:
        known = {pool.name for pool in client.read_work_pools()}
        for name in POOLS:
            if name not in known:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
                made.append(f"work pool {name}")
        try:
            client.read_concurrency_limit_by_tag("gpu")
        except ObjectNotFound:
            client.create_concurrency_limit(tag="gpu", concurrency_limit=1)
            made.append("concurrency limit gpu: 1")
    return made


def connect() -> str:
    """Let the event ``visionloop.retrain.requested`` start the deployment retrain/retrain; what was done.

    Raises:
        StateError: there is no such deployment at the server.
    """
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name("retrain/retrain")
        except ObjectNotFound as error:
            raise StateError(
                "the server has no deployment retrain/retrain: run `prefect --no-prompt deploy --all` first"
            ) from error
        known = client.read_automations_by_name(NAME)
    wanted = Automation(
        name=NAME,
        description="Starts when `watch` finds enough labels back; the run reads the episode's state again.",
        trigger=EventTrigger(
            expect={RETRAIN_REQUESTED},
            match={"prefect.resource.id": "visionloop.champion.*"},
            posture=Posture.Reactive,
            for_each={"prefect.resource.id"},
            # Debounced: it fires at the first event and then lets this long pass, for each champion.
            threshold=1,
            within=DEBOUNCE,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment.id,
                parameters={
                    "reason": "{{ event.payload.reason }}",
                    "episode": "{{ event.payload.episode }}",
                    "release": True,
                },
            )
        ],
    )
    if not known:
        wanted.create()
        return f"made the automation {NAME!r}"
    wanted.id = known[0].id
    wanted.update()
    return f"brought the automation {NAME!r} up to date"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.automation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "what", nargs="?", choices=("pools", "events"), help="only this part; both by default"
    )
    options = parser.parse_args(arguments)

    try:
        _check_server()
        if options.what != "events":
            print("\n".join(prepare()) or "the work pools and the limit are there")
        if options.what != "pools":
            print(connect())
    except VisionloopError as error:
        print(f"automation: {error}", file=sys.stderr)
        return 1
    return 0


def _check_server() -> None:
    """These belong on a server that stays: one that Prefect starts for a command has nobody to run them."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    start = "start one with `prefect server start`, then set PREFECT_API_URL=http://127.0.0.1:4200/api"
    if not url:
        raise StateError(f"PREFECT_API_URL names no Prefect server: {start}")
    try:
        healthy = httpx.get(f"{url}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        healthy = False
    if not healthy:
        raise StateError(f"no Prefect server answers at {url}: {start}")


if __name__ == "__main__":
    sys.exit(main())
