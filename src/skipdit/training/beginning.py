"""The weights that a run begins with: those of a pretrained model, with skips that it lacks.

    vanilla model + residual skips, which begin at zero    exactly the pretrained function
    vanilla model + replacing skips, as published          another function, which has to be learnt
"""

import torch

from skipdit.hub.load import load_model
from skipdit.models.base import LongSkipModel

FREE = {"num_skips", "fuse", "num_classes", "class_dropout_prob", "id2label", "sample_size"}  # may differ
CLASSES = "y_embedder.embedding_table.weight"
POSITIONS = "pos_embed"  # computed, never learnt: kept as rounded as they were saved, but for another size
SKIPS = "skip_"


@torch.no_grad()
def begin_from(model: LongSkipModel, source: str) -> list[str]:
    """Give `model` the weights of the model that `source` names; returns what is drawn anew, for a reader.

    A table of another number of classes is drawn anew, but for its null class.
    Raises: ValueError for another architecture or another size; as `load_model` for what is no model.
    """
    pretrained = load_model(source)
    check_alike(model, pretrained, source)
    own, given = model.state_dict(), pretrained.state_dict()
    taken = {name: tensor for name, tensor in given.items() if name != POSITIONS or tensor.shape == own[name].shape}
    fresh = []
    if CLASSES in own and own[CLASSES].shape != given[CLASSES].shape:
        taken[CLASSES] = own[CLASSES].clone()
        if None not in (model.null_class, pretrained.null_class):
            taken[CLASSES][model.null_class] = given[CLASSES][pretrained.null_class]
        fresh.append(f"the table of its {model.config.num_classes} classes")
    if added := model.num_skips - pretrained.num_skips:
        fresh.append(f"{added} skips (fuse {model.config.fuse})")
    model.load_state_dict(own | taken)
    return fresh


def check_alike(model: LongSkipModel, pretrained: LongSkipModel, source: str) -> None:
    """ValueError for weights that do not fit."""
    if type(model) is not type(pretrained):
        raise ValueError(f"init {source} is a {type(pretrained).__name__}, the model a {type(model).__name__}")
    wanted, given = (public(each) for each in (model, pretrained))
    wrong = [name for name in wanted if wanted[name] != given.get(name)]
    if wrong:
        said = ", ".join(f"{name} {given.get(name)} (the model: {wanted[name]})" for name in wrong)
        raise ValueError(f"init {source} has {said}: make the model like it, or take another init")
    skips, fuse = pretrained.num_skips, pretrained.config.get("fuse")
    if skips and (skips, fuse) != (model.num_skips, model.config.get("fuse")):
        said = f"the model {model.num_skips} (fuse {model.config.fuse})"
        raise ValueError(f"init {source} has {skips} skips (fuse {fuse}), {said}: take those of init")


def public(model: LongSkipModel) -> dict[str, object]:
    """The settings of an architecture that weights depend on."""
    return {name: value for name, value in model.config.items() if not name.startswith("_") and name not in FREE}
