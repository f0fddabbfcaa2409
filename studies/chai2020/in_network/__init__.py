"""Do natural modes predict how a conv layer learns inside its network?"""
