"""What is computed from the enriched log: the ranking and the hourly KPIs. No Dagster."""
