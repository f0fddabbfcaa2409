"""Does the horizon of a prediction grow with width?"""
