"""The paper's head from random numbers, as its equations have it."""

model = dict(mask_start="random", decoder_start="random")
