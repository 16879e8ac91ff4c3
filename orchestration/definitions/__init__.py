"""Factories of Dagster definitions, which the generated code locations call."""
