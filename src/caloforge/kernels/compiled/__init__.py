"""Compiled CPU kernels: C++ sources with a plain C interface, loaded through ctypes. No torch here.

A wheel carries them for several kinds of processors (``packaged/``), of which the loader takes the best that runs. Where
there are none, they are compiled for this machine when they are first needed (some ten seconds, once per user and kind of
machine); where there is no compiler either, the operators go on in plain PyTorch, and one warning says so.

Environment variables: ``CALOFORGE_KERNELS`` chooses (``packaged``, ``user``, ``plain``, or the name of one of the packaged
kernels); ``CXX`` names the compiler; ``CALOFORGE_CACHE`` names the folder for built files (``caloforge.caches``).
"""

from __future__ import annotations

from caloforge.kernels.compiled.loader import Choice, compiled_library, use_choice

__all__ = ["Choice", "compiled_library", "use_choice"]
