"""The transforms of one image, built from torchvision's: the specification of `augment`.

Training runs the batched form in `augmentation`, whose results match these bit for bit;
`tests/data/test_augmentation.py` compares the two.
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
