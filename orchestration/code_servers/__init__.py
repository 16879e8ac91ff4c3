"""Code locations as Dagster is served with them: loaded, answered for, woken when needed."""
