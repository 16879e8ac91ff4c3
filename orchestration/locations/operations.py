"""The location of those who look after all others; it is served where somebody is to be told."""

from orchestration.definitions.operations import operations_definitions

defs = operations_definitions()
