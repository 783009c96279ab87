"""Bounded fuzzers for all code that parses bytes or texts of clients.

`make fuzz` runs them for longer (`ARGS="--examples 100000"`).
"""
