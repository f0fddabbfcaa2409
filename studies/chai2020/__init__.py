"""The studies of Chai, Pilanci and Murmann (2020), a folder each."""
