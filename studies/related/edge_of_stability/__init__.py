"""Does training drive the sharpness to 2 / lr?"""
