"""Orchestration of data products in Dagster, one isolated code location per product."""


class OrchestrationError(Exception):
    """Something the user can mend; its text says what happened, where, and what to do."""
