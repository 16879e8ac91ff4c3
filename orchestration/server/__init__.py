"""What `up` runs: the supervisor, code servers, and Dagster's webserver and daemon."""
