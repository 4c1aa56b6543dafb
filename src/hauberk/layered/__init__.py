"""Networks as ordered graphs of few operators, read from PyTorch modules and ONNX files: what is needed to prove something of them.

`from_torch` and `from_onnx` read them, `to_onnx` writes them, `folded` and `lowered` simplify them; each stands in the module of its name.
"""

from hauberk.layered.graph import Builder, Graph, Node

__all__ = ["Builder", "Graph", "Node"]
