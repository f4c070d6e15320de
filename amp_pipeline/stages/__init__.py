"""What happens to an hour, stage by stage: landed, deduplicated, merged ids.

One class a stage, one method an hour; no Dagster.
"""
