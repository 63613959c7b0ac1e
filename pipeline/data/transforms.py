"""The transforms of one image, as torchvision states them: the specification of `augment`.

Training runs the batched form in `pipeline.data.augment`, whose results equal these bit for bit;
`tests/test_augment.py` compares the two.
"""

from torchvision.transforms import (
    Compose,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    ToTensor,
)

training_transform = Compose(
    [
        ToTensor(),
        RandomHorizontalFlip(p=0.5),
        RandomRotation(degrees=15),
        RandomCrop(size=(32, 32), padding=4),
        Normalize((0.5,), (0.5,)),
    ]
)

validation_transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])
