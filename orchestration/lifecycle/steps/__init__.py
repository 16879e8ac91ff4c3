"""Scripts that run in dcpy's interpreter, without Dagster: one for each stage that calls dcpy."""
