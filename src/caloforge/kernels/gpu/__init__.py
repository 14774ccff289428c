"""What solves on a GPU: a Triton kernel, or plain PyTorch replayed as a CUDA graph; which of them, :mod:`.choice` says.

Nothing here is imported before it is used: Triton is an extra (``pip install 'caloforge[gpu]'``), which CUDA builds of PyTorch
bring along.

``CALOFORGE_GPU_KERNELS`` chooses: ``triton``, ``graphs`` or ``plain``.
"""
