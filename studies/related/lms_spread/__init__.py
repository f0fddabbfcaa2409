"""Does theory predict LMS over eigenvalue spreads from 1 to 1000?"""
