"""Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", 2203.14001 (SimKD).

The student learns the teacher's last feature and nothing else, and then answers with the teacher's own classifier. So
what is shipped is the student without its classifier, a projector, and the teacher's classifier: all of it is counted,
timed, measured and saved. No labels and no logits are looked at: the task weight is 0.

The feature is the teacher's last map where its mean over pixels is what the classifier is given, as in the paper. Where
it is not (a norm in between, a class token), it is the classifier's input itself, a map of one pixel. The projector has
the paper's three convolutions, and a ReLU at its end where the teacher's feature has no negative value.

Default: weight 1 for the mean squared error, task weight 0, tuned on CIFAR-100.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_map, resized
from kdrun.errors import UsageError
from kdrun.losses.term import Deployed, Term
from kdrun.models.building import Model
from kdrun.models.prepared import Prepared
from kdrun.models.reused import FEATURE, Projector, Reused, options_of, taps_of
from kdrun.pairing import EMBEDDING, Pair, both, needed, pair_embeddings, pair_last
from kdrun.taps import Tapped
from kdrun.types import Batch, Outputs


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the projected student map and the teacher's, both `(B, D, H, W)`."""
    return F.mse_loss(projected, teacher)


class SimKD(Term):
    features = True
    smallest_batch = 2  # the projector has batch norm

    def __init__(self, reduction: int = 2, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.reduction, self.given = reduction, pairs
        self.pair, self.size, self.rectified = Pair("", ""), (1, 1), False
        self.shapes = (0, 0)
        self.found: list[nn.Linear] = []  # the teacher's classifier: in a list, since it is not this term's to train

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        answered = needed(teacher_probe)
        self.pair = self._pair(student_probe, answered)
        known, wanted = (as_map(one) for one in both(student_probe, answered, self.pair))
        self.size = (min(known.shape[2], wanted.shape[2]),) * 2
        self.shapes, self.rectified = (known.shape[1], wanted.shape[1]), bool((wanted >= 0).all())
        assert isinstance(teacher, Tapped)
        self.found = [classifier_of(teacher.network, wanted.mean(dim=(2, 3)), answered.logits)]

    def _pair(self, student: Outputs, teacher: Outputs) -> Pair:
        if self.given is not None:
            return pair_embeddings(student, teacher, self.given)
        stages = [tap for tap in teacher.features if tap != EMBEDDING]
        own = [tap for tap in student.features if tap != EMBEDDING]
        last = pair_last(student, teacher, None) if stages and own else Pair(EMBEDDING, EMBEDDING)
        pooled, given = as_map(teacher.features[last.teacher]).mean(dim=(2, 3)), teacher.features[EMBEDDING]
        same = pooled.shape == given.shape and torch.allclose(pooled, given, rtol=1e-3, atol=1e-4)
        return last if same else Pair(last.student, EMBEDDING)

    def deployed(self, student: Model, taps: Mapping[str, str]) -> Deployed:
        sizes = (*self.shapes, self.reduction, self.size[0])
        options = options_of(student.spec, taps[self.pair.student], sizes, self.rectified)
        projector = Projector(**options["projector"])
        network = copy.deepcopy(student.net.net)  # the model that was given keeps its classifier
        net = Reused(network, options["tap"], projector, copy.deepcopy(self.found[0]))
        model = Model(Prepared(net, student.net.preprocess), {**student.spec, "kind": "reused", "options": options})
        return Deployed(model, taps_of(taps))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        wanted = resized(as_map(needed(teacher).features[self.pair.teacher]), self.size)
        return simkd_loss(student.features[FEATURE], wanted)


def classifier_of(network: nn.Module, feature: Tensor, logits: Tensor) -> nn.Linear:
    """The linear layer that makes a model's logits `(B, C)` of a feature `(B, D)`. Raises `UsageError`."""
    for module in [one for one in network.modules() if isinstance(one, nn.Linear)][::-1]:
        if module.in_features == feature.shape[1] and module.out_features == logits.shape[1]:
            with torch.no_grad():
                answer = module(feature)
            if torch.allclose(answer, logits, rtol=1e-3, atol=1e-3):
                return module
    raise UsageError(
        f"no linear layer of the teacher makes its logits {tuple(logits.shape[1:])} of its feature "
        f"{tuple(feature.shape[1:])}, so there is no classifier to reuse; losses that work without are kd, fitnet, srd"
    )
