"""The processes of runs: launched, cancelled and looked after, on this host or on another."""
