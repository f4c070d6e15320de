"""The Dagster face: graph, runs, configuration."""
