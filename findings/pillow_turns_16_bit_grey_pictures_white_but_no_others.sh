#!/bin/sh
# GUESS: `Image.open(file).convert("RGB")`, as torchvision's folder data sets read every picture,
#   scales 16 bits to 8, whatever the picture's colours: it does so for PNGs with three channels.
# REAL: A PNG with 16 bits of grey keeps its values when it is opened, and converting cuts all above
#   255 to 255: it becomes white but for what is nearly black. With an alpha channel, or as three
#   equal channels, the same values are scaled. So one scan, saved in two ways, is two pictures to a
#   network.
# VERSIONS: Pillow 13.0.0, numpy 2.4.6, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   stored in 16 bits      [0, 200, 8738, 17476, 32768, 65535]
#   grey, read as RGB      [0, 200, 255, 255, 255, 255]
#   grey and alpha         [0, 0, 34, 68, 128, 255]
#   red, green, blue       [0, 0, 34, 68, 128, 255]
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image

COLOUR_TYPES = {1: 0, 2: 4, 3: 2}  # by channels, as the PNG specification numbers them
VALUES = [0, 200, 8738, 17476, 32768, 65535]


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(pixels):
    """A PNG of one row with 16 bits for each of `[width, channels]`."""
    width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, 1, 16, COLOUR_TYPES[channels], 0, 0, 0)
    row = b"\0" + pixels.astype(">u2").tobytes()
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def read(pixels):
    picture = Image.open(io.BytesIO(png(pixels))).convert("RGB")
    return np.asarray(picture)[0, :, 0].tolist()


column = np.array(VALUES)[:, None]
opaque = np.full_like(column, 65535)
seen = {
    "grey, read as RGB": read(column),
    "grey and alpha": read(np.hstack([column, opaque])),
    "red, green, blue": read(np.hstack([column] * 3)),
}
print(f"{'stored in 16 bits':22} {VALUES}")
for name, values in seen.items():
    print(f"{name:22} {values}")
cut, *scaled = seen.values()
is_cut = cut == [min(value, 255) for value in VALUES]
are_scaled = all(values == [value >> 8 for value in VALUES] for values in scaled)
sys.exit(0 if is_cut and are_scaled else "this has changed")
PYTHON
