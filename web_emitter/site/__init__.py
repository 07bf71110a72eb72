"""The site: the pages that show the enriched log, and the application that serves them."""
