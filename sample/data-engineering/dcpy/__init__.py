"""A stand-in for dcpy, for the sample checkout.

It has the entry points of the real package that an orchestration calls, with the same signatures,
and writes the same files. It reads local CSV files, loads DuckDB, and keeps a folder where the
real one keeps its bucket: no network, no Postgres, no geometry.
"""
