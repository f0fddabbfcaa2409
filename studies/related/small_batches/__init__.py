"""How far below 2 / λmax does the edge of small batches lie?"""
