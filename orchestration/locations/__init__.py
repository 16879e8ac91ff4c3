"""The code locations: one generated module per product, and one for ingest."""
