"""What the checkout says: where it is, its products, recipes and ingest templates."""
