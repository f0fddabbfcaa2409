"""Does gradient descent with BatchNorm converge at any rate on least squares?"""
