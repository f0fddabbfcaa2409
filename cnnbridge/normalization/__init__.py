"""What a normalization does to the spectrum that a layer learns on."""
