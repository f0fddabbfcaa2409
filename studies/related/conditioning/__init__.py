"""Does BatchNorm condition the layers, and is the last one left worst?"""
