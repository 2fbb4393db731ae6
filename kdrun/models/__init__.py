"""Model families, one file each. The file's name is the `kind` in a model's YAML.

build(classes, channels, size, **options) -> nn.Module     logits `(B, classes)` from float images
CHANNELS   optional: channels the network insists on; otherwise those of the data
input_size(size, **options) -> int    optional: pixels the network is fed when images have `size`
"""
