"""Read the images of a request: one as it is, or several as base64 in JSON."""

import base64

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.data.pictures.pixels import MOST_PIXELS
from pipeline.errors import InputError
from pipeline.models.pictures import pixel_count, read_picture
from pipeline.serving.served import Served

# Not all that Pillow reads: some kinds start other programs.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MOST_BYTES = 16 * 2**20
MOST_IMAGES = 256  # in one request
JSON = "application/json"
# curl's --data-binary sends the second unless it is told otherwise.
RAW = ("application/octet-stream", "application/x-www-form-urlencoded", "")
RIGHT = (
    "send an image's bytes as the body (curl --data-binary @cat.jpg), or JSON,"
    ' {"images": ["<base64>", ...]}'
)


class Images(BaseModel):
    """The JSON body of a request: image files in base64."""

    model_config = ConfigDict(extra="forbid")
    images: list[str] = Field(min_length=1, max_length=MOST_IMAGES)


def _decoded(image: str) -> bytes:
    """An image's file, from base64 with or without the beginning of a data URL."""
    try:
        return base64.b64decode(image.rpartition(",")[2], validate=True)
    except ValueError:
        raise HTTPException(400, f"images: {image[:20]!r} is not base64; {RIGHT}") from None


async def body_of(request: Request) -> bytes:
    """Return a request's body. Raises HTTPException if it is empty or too large."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            limit = f"{MOST_BYTES // 2**20} MiB"
            raise HTTPException(413, f"the body is larger than {limit}; send smaller images")
    if not content:
        raise HTTPException(400, f"the body is empty; {RIGHT}")
    return bytes(content)


def read_images(body: bytes, content_type: str, served: Served) -> NDArray[np.uint8]:
    """Return a request's images as the pixels `[N, H, W, C]` that the model takes.

    Raises HTTPException that says what is wrong and what would be right.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        try:
            images = [_decoded(one) for one in Images.model_validate_json(body).images]
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            raise HTTPException(400, f"{place}: {first['msg']}; {RIGHT}") from None
        files = {f"images.{number}": image for number, image in enumerate(images)}
        if sum(pixel_count(image, KINDS) for image in images) > MOST_PIXELS:
            limit = f"{MOST_PIXELS // 1_000_000} million pixels"
            raise HTTPException(413, f"the images together have more than {limit}; send fewer")
    elif kind in RAW or kind.startswith("image/"):
        files = {"the body": body}
    else:
        raise HTTPException(415, f"the content type is {kind}; {RIGHT}")
    pixels = []
    for name, file in files.items():
        try:
            pixels.append(read_picture(file, served.model.image_shape, KINDS))
        except InputError as error:
            raise HTTPException(400, f"{name} can't be read: {error}") from None
    return np.stack(pixels)
