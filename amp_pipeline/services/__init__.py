"""What others ask of us over HTTP. Knows neither Dagster nor boto3."""
