"""What isolation costs, beside what Dagster does without this project."""
