"""Work beyond one machine: an executor for Dask clusters, and what ``--cluster`` means."""

from caloforge.scaleout.clusters import check_choice, open_cluster, open_executor
from caloforge.scaleout.dask_executor import DaskExecutor
from caloforge.scaleout.state import ClusterError, Rules

__all__ = ["ClusterError", "DaskExecutor", "Rules", "check_choice", "open_cluster", "open_executor"]
