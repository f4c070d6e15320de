"""The rules, pure: standard library, polars, numpy and msgspec.

No Dagster, boto3, clock, environment, logging or I/O.
"""
