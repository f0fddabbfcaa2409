"""Studies of neighbouring questions, a folder each."""
