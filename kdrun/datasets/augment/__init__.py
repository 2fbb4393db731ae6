"""Augmentations, one file each: batched, per sample, pure. Images are uint8 `(B, C, H, W)` and stay uint8.

apply(images, draw, **options) -> images                               one image at a time
mix(images, partners, draw, **options) -> (images, share (B,))         two images; share of the first in the label
"""
