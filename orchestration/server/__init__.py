"""`up`: the supervisor of all that runs, Dagster's webserver and daemon among it."""
