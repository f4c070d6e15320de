"""``amp-pipeline``: what is done outside the Dagster UI.

With ``definitions`` the only place that reads the environment and the clock.
"""

import click

from amp_pipeline import __version__
from amp_pipeline.cli import alerts, buckets, deletion, hours, metrics, serve, status, tidy


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="amp-pipeline")
def main() -> None:
    """Every event, once, every hour, in a bucket you own. The organizations are those that Dagster shows."""


for _command in (
    hours.deliver,
    status.status,
    metrics.metrics,
    hours.stale,
    hours.waiting,
    hours.audit_command,
    hours.accept,
    tidy.tidy,
    deletion.delete_user,
    deletion.deletions,
    buckets.access,
    buckets.policy,
    alerts.alert,
    alerts.watch,
    serve.serve,
):
    main.add_command(_command)
