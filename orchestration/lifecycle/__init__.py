"""The work of a stage: dcpy's steps and build commands, their processes, and results on disk."""
