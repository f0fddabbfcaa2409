"""The command ``naturalmodes inspect``: networks of the user's, found by name."""
