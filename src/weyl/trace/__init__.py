"""From a module to its structure. The only room that knows operators and modules."""

from weyl.trace._capture import capture, check_call, copy_module, explain, module_tensors
from weyl.trace._discover import analyse, discover

__all__ = ["analyse", "capture", "check_call", "copy_module", "discover", "explain", "module_tensors"]
