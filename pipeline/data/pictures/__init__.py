"""Pictures as pixels: `pixels` is the one way, for training, evaluation and predictions.

`folder` and `pairs` are the collections of pictures that become data sets: files in folders of
classes, and what torchvision calls a data set. `reading` makes arrays of them.
"""
