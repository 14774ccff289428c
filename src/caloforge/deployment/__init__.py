"""Models outside of Python: a C++ runtime, and exports that are proven to make the same showers."""

from caloforge.deployment.export import TARGETS, Exported, export_model

__all__ = ["TARGETS", "Exported", "export_model"]
