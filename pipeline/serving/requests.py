"""Read the images of a request: one as it is, or several, in a form or as base64 in JSON."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from pipeline.data.pictures.pixels import MAX_PIXELS, read_picture
from pipeline.errors import InputError, printable
from pipeline.models.pictures import pixel_count
from pipeline.serving.served import Served

# Not all that Pillow reads: some kinds start other programs.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_BYTES = 16 * 2**20
MAX_IMAGES = 256  # in one request
JSON, FORM = "application/json", "multipart/form-data"
# What curl says of -d, which removes line breaks, and of --data-binary unless it is told otherwise.
CURL = "application/x-www-form-urlencoded"
RAW = ("application/octet-stream", CURL, "")
UNBROKEN = 1024  # bytes of a JPEG, of which one in 128 is half of a line break
RIGHT = (
    "send an image's bytes as the body (curl --data-binary @cat.jpg), a form with files"
    ' (curl -F image=@cat.jpg), or JSON, {"images": ["<base64>", ...]}'
)


class Images(BaseModel):
    """The JSON body of a request: image files in base64."""

    model_config = ConfigDict(extra="forbid")
    images: list[str] = Field(min_length=1, max_length=MAX_IMAGES)


async def body_of(request: Request) -> bytes:
    """Return a request's body. Raises HTTPException if it is empty or too large."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            limit = f"{MAX_BYTES // 2**20} MiB"
            raise HTTPException(413, f"the body is larger than {limit}; send smaller images")
    if not content:
        raise HTTPException(400, f"the body is empty; {RIGHT}")
    return bytes(content)


def read_images(body: bytes, content_type: str, served: Served) -> NDArray[np.uint8]:
    """Return a request's images as the pixels `[N, H, W, C]` that the model takes.

    Raises HTTPException that says what is wrong and what would be right.
    """
    kind, options = parse_options_header(content_type)
    kind = kind.lower()
    if kind == JSON:
        files = _files_of_json(body)
    elif kind == FORM:
        files = _files_of_form(body, options.get("boundary", ""))
    elif kind in RAW or kind.startswith("image/"):
        files = {"the body": body}
        if kind == CURL and _is_stripped(body):
            raise HTTPException(400, f"the body has no line break: curl -d removes them; {RIGHT}")
    else:
        raise HTTPException(415, f"the content type is {kind}; {RIGHT}")
    if len(files) > 1 and sum(pixel_count(one, KINDS) for one in files.values()) > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million pixels"
        raise HTTPException(413, f"the images together have more than {limit}; send fewer")
    pixels = []
    for name, file in files.items():
        try:
            pixels.append(read_picture(file, served.model.image_shape, KINDS))
        except InputError as error:
            reason = error if file else "it is empty"
            right = f"; {RIGHT}" if kind in (CURL, FORM) else ""
            raise HTTPException(400, f"{name} can't be read: {reason}{right}") from None
    return np.stack(pixels)


def _is_stripped(body: bytes) -> bool:
    """Whether a JPEG has lost its line breaks: it may still be read, as other pixels."""
    is_jpeg = body.startswith(b"\xff\xd8")
    return is_jpeg and len(body) > UNBROKEN and not (b"\n" in body or b"\r" in body)


def _files_of_json(body: bytes) -> Mapping[str, bytes]:
    try:
        images = Images.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise HTTPException(400, f"{place}: {first['msg']}; {RIGHT}") from None
    files = {}
    for number, image in enumerate(images):
        try:
            files[f"images.{number}"] = _from_base64(image.encode())
        except ValueError:
            raise HTTPException(400, f"images: {image[:20]!r} is not base64; {RIGHT}") from None
    return files


def _files_of_form(body: bytes, boundary: str) -> Mapping[str, bytes]:
    """The files in a form, in fields of any name; a field without a file may hold base64."""
    if not boundary:
        reason = "its content type lacks the boundary, which clients add by themselves"
        raise HTTPException(400, f"the form can't be read: {reason}; {RIGHT}")
    files = {}
    try:
        for number, (part, content) in enumerate(_parts(body, boundary.encode())):
            name = part.name
            if isinstance(part, multipart.File):
                if not part.filename and not content:  # no file was chosen
                    continue
                name = part.filename or name
            else:
                with suppress(ValueError):  # else it is a file as text (curl -F 'image=<cat.jpg')
                    content = _from_base64(content)
            name = printable(name or "a field without a name")
            files[f"{name} ({number + 1})" if name in files else name] = content
    except RequestEntityTooLarge:
        raise HTTPException(400, f"the form has more than {MAX_IMAGES} fields; {RIGHT}") from None
    except ValueError:
        raise HTTPException(400, f"the form can't be read: it is damaged; {RIGHT}") from None
    if not files:
        raise HTTPException(400, f"the form has no file; {RIGHT}")
    return files


def _parts(
    body: bytes, boundary: bytes
) -> Iterator[tuple[multipart.Field | multipart.File, bytes]]:
    decoder = multipart.MultipartDecoder(boundary, max_parts=MAX_IMAGES)
    decoder.receive_data(body)
    decoder.receive_data(None)
    while not isinstance(event := decoder.next_event(), multipart.Epilogue):
        if isinstance(event, multipart.Field | multipart.File):
            part = event
        elif isinstance(event, multipart.Data):
            yield part, event.data


def _from_base64(text: bytes) -> bytes:
    """Decode base64, with or without line breaks and the beginning of a data URL."""
    if text.startswith(b"data:"):
        text = text.partition(b",")[2]
    return base64.b64decode(b"".join(text.split()), validate=True)
