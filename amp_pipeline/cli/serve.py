"""``amp-pipeline serve``: what others ask of us over HTTP."""

from pathlib import Path

import click

from amp_pipeline import clock
from amp_pipeline.cli.asking import chosen, says_what_is_wrong
from amp_pipeline.core.errors import ConfigError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def serve() -> None:
    """Serve what was delivered over HTTP, until stopped."""


@serve.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for a free one.")
@click.option("--project", "slug", help="The project's slug; all projects if not given.")
@click.option("--delivery", "name", help="The delivery's name; all that have export_api if not given.")
@click.option("--certificate", type=_FILE, help="Certificate in PEM, for https; with --key.")
@click.option("--key", type=_FILE, help="Key of the certificate, in PEM.")
@click.option(
    "--limit", type=click.IntRange(1), help="Most packed bytes of an answer; as Amplitude, 4 GB, if not given."
)
@says_what_is_wrong
def export(
    host: str,
    port: int,
    slug: str | None,
    name: str | None,
    certificate: Path | None,
    key: Path | None,
    limit: int | None,
) -> None:
    """Serve Amplitude's Export API over delivered archives.

    Those of deliveries that have export_api. A line for each request is written to standard error: time, status,
    delivery, hours, bytes, seconds.
    """
    # Take 0.2 s and 20 MB, which the other commands don't need.
    from amp_pipeline.services import listening
    from amp_pipeline.services.export_api import LIMIT_BYTES, ExportApi
    from amp_pipeline.services.exported import Exported
    from amp_pipeline.storage.urls import open_store

    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key belong together; name both or none")
    projects = chosen(slug, filters=False)
    archives = [
        (
            delivery.export_api,
            Exported(
                organization,
                project,
                delivery,
                open_store(delivery.url, organization.s3_of(delivery)),
                lambda: clock.now().date(),
            ),
        )
        for organization, project in projects
        for delivery in project.deliveries
        if delivery.export_api is not None and name in (None, delivery.name)
    ]
    if not archives:
        known = sorted({delivery.name for _, project in projects for delivery in project.deliveries})
        if name is not None and name not in known:
            raise ConfigError(f"there is no delivery {name}; known are {', '.join(known) or 'none'}")
        which = f"delivery {name}" if name else "no delivery"
        of, has = f" of {slug}" if slug else "", "has no" if name else "has"
        raise ConfigError(f"{which}{of} {has} export_api; give it the keys that readers have to send")
    app = ExportApi(archives, _say, limit_bytes=limit or LIMIT_BYTES)
    serving = listening.server(app, listening.Certificate(certificate, key) if certificate and key else None)
    at = listening.bound(host, port)
    for _, archive in archives:
        click.echo(f"serving {archive.label}: {archive.store.url}")
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"listening at {'https' if certificate else 'http'}://{shown}:{at.getsockname()[1]}")
    listening.run(serving, at)


def _say(line: str) -> None:
    click.echo(f"{clock.now():%Y-%m-%dT%H:%M:%SZ} {line}", err=True)
