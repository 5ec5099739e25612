"""From a module to its structure. The only room that knows operators and modules."""

from weyl.trace._capture import capture, copy_module, module_tensors
from weyl.trace._discover import analyse, discover

__all__ = ["analyse", "capture", "copy_module", "discover", "module_tensors"]
