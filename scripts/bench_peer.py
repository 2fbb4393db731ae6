"""One distillation by torchdistill, timed: run by `scripts/bench.py` in an environment of its own.

    python scripts/bench_peer.py resnet56 resnet20 --size 32 --batch 64 --steps 100

Prints one line of JSON: seconds from the start of the process to the first step, seconds per step after that. Data,
transforms, loader, loss and loop are those of torchdistill's example for CIFAR-100 and ImageNet (two workers).
"""

from __future__ import annotations

import argparse
import json
import resource
import time

BEGIN = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    box = built(options)
    seconds: list[float] = []
    first = 0.0
    while len(seconds) < options.steps:
        box.pre_epoch_process(epoch=0)
        before = time.perf_counter()
        for images, targets, more in box.train_data_loader:
            box.post_forward_process(box.forward_process(images, targets, more))
            now = time.perf_counter()
            if not first:
                first = now - BEGIN
            else:
                seconds.append(now - before)
            before = now
            if len(seconds) >= options.steps:
                break
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"first": first, "step": sum(seconds) / len(seconds), "memory": memory * 1024}))


def built(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import Dataset, RandomSampler
    from torchdistill.core.distillation import DistillationBox
    from torchvision import transforms

    small = options.size == 32
    stored = np.random.default_rng(0).integers(
        0, 256, (640 if small else 160, *([options.size if small else 256] * 2), 3)
    )
    pixels = stored.astype(np.uint8)
    shape = transforms.RandomCrop(options.size, padding=4) if small else transforms.RandomResizedCrop(options.size)
    normal = transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    change = transforms.Compose([shape, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normal])

    class Images(Dataset):  # type: ignore[type-arg]
        """As torchvision's CIFAR100: an array in memory, an image of PIL's, transforms."""

        def __len__(self) -> int:
            return options.batch * 100

        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            return change(Image.fromarray(pixels[index % len(pixels)])), index % 100

    logits = {"key": "KDLoss", "kwargs": {"student_module_path": ".", "student_module_io": "output"}}
    logits["kwargs"] |= {"teacher_module_path": ".", "teacher_module_io": "output", "temperature": 4.0, "alpha": 0.1}
    loader = {"batch_size": options.batch, "num_workers": 2, "pin_memory": True, "drop_last": True}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": loader,
        },
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": logits, "weight": 1.0}}}},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.0005, "nesterov": True}},
    }
    networks = [network(name) for name in (options.teacher, options.student)]
    networks[0].eval()
    return DistillationBox(*networks, {"train": Images()}, config, torch.device("cpu"), None, False, 1)


def network(name: str):  # type: ignore[no-untyped-def]
    """torchdistill's own model where it has one, torchvision's otherwise."""
    from torchdistill.models.classification import resnet, wide_resnet
    from torchvision import models

    if name.startswith("wrn"):
        depth, width = (int(number) for number in name.split("_")[1:])
        return wide_resnet.wide_resnet(depth, width, 0.0, 100, False, False)
    if hasattr(resnet, name):
        return getattr(resnet, name)(num_classes=100)
    return getattr(models, name)(num_classes=100)


if __name__ == "__main__":
    main()
