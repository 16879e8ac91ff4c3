"""The checkout's dcpy, installed in an environment of its own, one per checkout."""
