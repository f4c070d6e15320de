"""``python -m amp_pipeline.cli``."""

from amp_pipeline.cli import main

main(prog_name="amp-pipeline")
