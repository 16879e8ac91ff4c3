"""Dagster's state: where it lies, the partition keys in it, and the processes of its runs."""
