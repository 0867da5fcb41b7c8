"""What can be wrong with a checkpoint: each says in one line what it is and what to do about it."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or does not hold what the model needs."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle that calls for code, or a format whose readers would run any."""


class EscapingNameError(CheckpointError):
    """A file name inside a checkpoint that leads out of its folder."""


class DamagedCheckpointError(CheckpointError):
    """A file that has lost its end, or is no checkpoint at all."""


class EmptyCheckpointError(CheckpointError):
    """A checkpoint without a single tensor."""


class NotFiniteError(CheckpointError):
    """Weights that are infinite or no number."""


class MismatchError(CheckpointError):
    """Tensors that are not those of the model."""


class WrongShapeError(MismatchError):
    """Tensors of the right names, but of other shapes."""


class MissingSkipsError(MismatchError):
    """A checkpoint that has all of a skip model but skip layers."""
