"""What the server answers."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import mlflow
import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Template
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipeline.data.pictures.pixels import MODES
from pipeline.errors import InputError
from pipeline.machine import usable_processors
from pipeline.serving.batching import Batches
from pipeline.serving.hosts import KnownHosts
from pipeline.serving.requests import FORM, JSON, Images, body_of, read_images
from pipeline.serving.served import Following, Served

PAGES = Path(__file__).parent / "pages"
# The pages load nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src blob: data:; connect-src 'self'"
)
Top = Annotated[int, Query(ge=1, description="How many of the most probable classes.")]


class Probability(BaseModel):
    """A class and its probability."""

    name: str = Field(alias="class")
    probability: float


class Answer(BaseModel):
    """The most probable classes of each image, and the model that says so."""

    model: dict[str, str | None] = Field(examples=[{"name": "NAME", "version": "1", "run_id": "…"}])
    predictions: list[list[Probability]]


class Problem(BaseModel):
    """What is wrong, and what would be right."""

    error: str


PROBLEMS: dict[int | str, Any] = {
    status: {"model": Problem} for status in (400, 403, 413, 415, 422)
}
FILE = {"type": "string", "format": "binary"}
IMAGES_IN = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": FILE},
            FORM: {"schema": {"type": "object", "additionalProperties": FILE}},
            JSON: {"schema": Images.model_json_schema()},
        },
    }
}


def create_app(following: Following, follow: bool, hosts: Sequence[str]) -> FastAPI:
    """Return the application that serves a model, and keeps up with its alias if `follow`.

    hosts: the names that requests may use, as of `known_hosts`.
    """
    batches = Batches()
    readers = ThreadPoolExecutor(usable_processors(), "read")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(batches.run())]
        if follow:
            tasks.append(asyncio.create_task(following.follow()))
        yield
        for task in tasks:
            task.cancel()
        readers.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title=following.reference,
        version=following.served.facts["version"] or "",
        lifespan=lifespan,
        docs_url=None,  # it would load its scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(KnownHosts, hosts=hosts)

    async def read(request: Request) -> tuple[Served, NDArray[np.uint8]]:
        served, body = following.served, await body_of(request)
        kind = request.headers.get("content-type", "")
        loop = asyncio.get_running_loop()
        return served, await loop.run_in_executor(readers, read_images, body, kind, served)

    @app.post("/predict", response_model=Answer, responses=PROBLEMS, openapi_extra=IMAGES_IN)
    async def predict(request: Request, top: Top = 5) -> Response:
        """Classify an image, sent as it is, or several, in a form or as base64 in JSON."""
        served, pixels = await read(request)
        guesses = await batches.classify(served, pixels, top)
        model = {key: served.facts[key] for key in ("name", "version", "run_id")}
        predictions = [
            [{"class": name, "probability": share} for name, share in one] for one in guesses
        ]
        return JSONResponse({"model": model, "predictions": predictions})

    @app.post("/view", response_class=Response, responses=PROBLEMS, openapi_extra=IMAGES_IN)
    async def view(request: Request) -> Response:
        """Return the (first) image as the network sees it: a PNG of the size that it takes."""
        served, pixels = await read(request)
        height, width, channels = served.model.image_shape
        seen = Image.frombytes(MODES[channels], (width, height), pixels[0].tobytes())
        file = io.BytesIO()
        seen.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    def health() -> dict[str, str]:
        """Answer that the server is up."""
        return {"status": "ok"}

    @app.get("/version")
    def version() -> dict[str, Any]:
        """Say which model is served, and by which MLflow and PyTorch."""
        libraries = {"mlflow": mlflow.__version__, "torch": torch.__version__}
        return {"reference": following.reference, **following.served.facts, **libraries}

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return _html((PAGES / "try.html").read_text(encoding="utf-8"))

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        template = Template((PAGES / "docs.html.j2").read_text(encoding="utf-8"), autoescape=True)
        return _html(template.render(api=app.openapi(), url=str(request.base_url).rstrip("/")))

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        what = {404: "there is no such page", 405: f"{request.method} is not possible here"}
        known = what.get(error.status_code)
        reason = f"{known}; POST an image to /predict, or see /docs" if known else error.detail
        return JSONResponse({"error": reason}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_parameter(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def forget(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # which nobody reads

    @app.exception_handler(InputError)
    async def fail(_: Request, error: InputError) -> Response:
        return JSONResponse({"error": str(error)}, 500)  # the model is at fault

    return app


def _html(content: str) -> HTMLResponse:
    return HTMLResponse(content, headers={"Content-Security-Policy": POLICY})
