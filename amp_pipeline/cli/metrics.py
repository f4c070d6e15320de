"""``amp-pipeline metrics``: how deliveries stand, for Prometheus."""

import signal
from threading import Event
from typing import Any

import click

from amp_pipeline import clock
from amp_pipeline.cli.asking import says_what_is_wrong
from amp_pipeline.cli.status import gathered


class _Address(click.ParamType):
    """A host and a port."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise click.BadParameter(f"{value!r} is no address; write 127.0.0.1:9464", ctx, param)
        return host.strip("[]"), int(port)


@click.command()
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option("--listen", type=_Address(), help="Serve them at /metrics of an address, like 127.0.0.1:9464.")
@says_what_is_wrong
def metrics(slug: str | None, listen: tuple[str, int] | None) -> None:
    """Print how deliveries stand as metrics of Prometheus.

    Or serve them until stopped. Where configuration or workspace can't be read, amp_pipeline_up is 0. With
    DAGSTER_HOME set, runs that are not done are counted.
    """
    # Takes 0.1 s to import, which the other commands don't need.
    from prometheus_client import generate_latest, start_http_server

    from amp_pipeline.metrics import Metrics, registry

    found = registry(
        Metrics(
            lambda now: gathered(slug, now),
            clock.now,
            lambda what: click.echo(f"Error: {what}", err=True),
        )
    )
    if listen is None:
        click.echo(generate_latest(found).decode(), nl=False)
        return
    host, port = listen
    try:
        server, _ = start_http_server(port, host, found)
    except OSError as error:
        raise click.ClickException(f"can't listen at {host}:{port}: {error.strerror or error}") from None
    click.echo(f"serving http://{host}:{server.server_port}/metrics")
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    server.shutdown()
