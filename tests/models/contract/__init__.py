"""The laws of every model of the package. A model comes under them with one class:

    class TestLatte(LatteSubject, ModelContract): ...

where its `Subject` says how a tiny one is built, what goes in, and which modules are its layers. Models whose blocks
diffusers does not know come under `UnknownToDiffusers` too.
"""

from tests.models.contract.beside import Beside
from tests.models.contract.compiled import Compiled, CompiledWhereSomebodyLooks
from tests.models.contract.configs import Configs
from tests.models.contract.contexts import Contexts
from tests.models.contract.copies import Copies
from tests.models.contract.cost import Cost
from tests.models.contract.cuts import Cuts
from tests.models.contract.entries import Entries
from tests.models.contract.guards import Guards, UnknownToDiffusers
from tests.models.contract.reuse import Reuses
from tests.models.contract.runs import CleanStarts

__all__ = ["CompiledWhereSomebodyLooks", "Cuts", "ModelContract", "Reuses", "UnknownToDiffusers"]


class ModelContract(Cuts, Reuses, CleanStarts, Contexts, Guards, Copies, Cost, Compiled, Beside, Entries, Configs):
    """Everything that holds for every model."""
