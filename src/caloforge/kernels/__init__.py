"""Fast paths on a CPU: operators with a plain twin each (``ops``), and compiled kernels behind them (``compiled``).

Networks call functions of ``caloforge.kernels.ops`` and know of nothing else. A function is an operator of PyTorch, registered as
``torch.ops.caloforge.<name>``; its default implementation is plain PyTorch, and on a CPU a C++ kernel takes its place where
there is one. Weights cross as one packed tensor, made by an operator of its own.
"""
