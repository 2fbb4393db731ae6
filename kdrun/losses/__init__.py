"""Loss terms: one paper, one file. The file's name is the term's key in a config."""

from kdrun.losses.term import Term

__all__ = ["Term"]
