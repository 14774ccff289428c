"""Operators: what networks call. Each module says what one of them computes, and computes it in plain PyTorch too.

How a new one is made: write the plain function, write ``compiled(library, ...)`` of the same arguments that calls the C interface
and returns ``NotImplemented`` for what the kernel does not know, and hand both with a schema to
:func:`caloforge.kernels.ops.registry.operator`.
"""
