"""What do BatchNorm and its parts do to the spectrum that a layer learns on?"""
