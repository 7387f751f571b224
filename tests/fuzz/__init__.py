"""Damaged and hostile input by the thousand: every case ends in one line of ours, or is right.

A *case* takes something good, changes it as accident or malice would, and goes through the front
door with it. It may be refused by a :class:`~circuit_econ.errors.CircuitEconError` (an exit code
of the command line), or be measured; then its numbers are compared with an oracle that shares
nothing with the code under test. ``make fuzz`` runs thousands, ``tests/test_fuzz.py`` some.
"""
