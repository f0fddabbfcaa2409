"""Do isolated conv layers learn along the natural modes of LMS theory?"""
