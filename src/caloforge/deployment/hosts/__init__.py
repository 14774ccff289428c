"""Doubles of simulation frameworks: they take what a host takes and do with it what the host does, but refuse its traps.

They are written from what the hosts' contracts say, not from their code, and a host may change; docs/deployment.md says with
which version the contract was read.
"""
