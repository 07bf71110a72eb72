"""The analysis pages: the enriched logs, their filters, charts, export and live view."""
