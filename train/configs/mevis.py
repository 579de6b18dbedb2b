"""MeViS, as in the paper: 40,000 iterations on clips of the bank, every query over 0.7.

The head starts from the segmenter's own masks; the row `dmvs_literal` does not.
"""

model = dict(mask_start="segmenter", decoder_start="identity")
train = dict(max_iters=40000)
evaluation = dict(sigma=0.7)
