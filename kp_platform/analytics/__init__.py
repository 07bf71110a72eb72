"""Analytics of the enriched log: the ranking and the hourly KPIs. No Dagster."""
