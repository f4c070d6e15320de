"""All Dagster code.

Folders beside these modules that hold a ``defs.yaml`` are organizations, made by ``dg scaffold defs``.
"""
