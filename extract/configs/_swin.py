"""The sizes of Swin Transformers, as Mask2Former and VITA take them."""

TINY = dict(type="swin", embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7)
SMALL = TINY | dict(depths=(2, 2, 18, 2))
BASE = SMALL | dict(embed_dim=128, num_heads=(4, 8, 16, 32), window_size=12)
LARGE = BASE | dict(embed_dim=192, num_heads=(6, 12, 24, 48))
