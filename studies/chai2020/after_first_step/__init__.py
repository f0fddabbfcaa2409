"""Does BatchNorm go on approximating NLMS after the first step?"""
