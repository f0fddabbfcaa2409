"""Is the first step of BatchNorm a step of NLMS?"""
