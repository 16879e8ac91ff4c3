"""The processes of a running `up`: how they start, what they print, how they end."""
