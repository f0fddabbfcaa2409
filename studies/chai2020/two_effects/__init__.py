"""Does amplifying give the speed, and suppressing the stability?"""
