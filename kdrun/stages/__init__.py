"""Stages: what a command does, from a checked config to a run directory. Only they bring all parts together."""
