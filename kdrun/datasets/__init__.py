"""Data sets: what is read (one file each, the file's name is the `kind` in its YAML), how it is split, its views.

read(folder, verify, **options) -> Raw
"""
