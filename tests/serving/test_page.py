"""The page to try a model, in a real browser.

`pytest tests/serving/test_page.py --screenshots FOLDER` saves what it sees, for the docs.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, Study, drawn_data
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from test_serve import Server, serving

LABEL = 37


@pytest.fixture(scope="module")
def server(study: Study) -> Iterator[Server]:
    with serving(study.folder, "--model", "models:/synthetic-cnn@bn") as server:
        yield server


@pytest.fixture(scope="module")
def browser_page(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 800, "height": 640})
    page.set_default_timeout(PATIENCE)
    return page


@pytest.fixture
def page(browser_page: Page, server: Server) -> Iterator[Page]:
    """The page, newly opened; it must ask nobody but the server, and report no error."""
    others, errors = list[str](), list[str]()
    browser_page.on(
        "request",
        lambda one: (
            None if one.url.startswith((server.address, "blob:")) else others.append(one.url)
        ),
    )
    browser_page.on("pageerror", lambda error: errors.append(str(error)))
    browser_page.goto(server.address)
    yield browser_page

    assert others == []
    assert errors == []


def picture() -> bytes:
    """A drawn picture, ten times as large and wider than high."""
    data = drawn_data()
    number = int((data.validation.labels == LABEL).nonzero()[0])
    small = Image.fromarray(data.validation.images[number].numpy())
    wide = Image.new("RGB", (480, 320), "white")
    wide.paste(small.resize((320, 320), Image.Resampling.NEAREST), (80, 0))
    file = io.BytesIO()
    wide.save(file, "PNG")
    return file.getvalue()


HAND_OVER = """
([name, content]) => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "shape.png", { type: "image/png" }));
  const event = name === "paste"
    ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true })
    : new DragEvent(name, { dataTransfer: files, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}
"""


def hand_over(page: Page, way: str) -> None:
    """Choose, drop or paste the picture."""
    if way == "choose":
        file = {"name": "shape.png", "mimeType": "image/png", "buffer": picture()}
        page.get_by_label("choose a file").set_input_files(file)  # type: ignore[arg-type]
    else:
        page.evaluate(HAND_OVER, [way, base64.b64encode(picture()).decode()])


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_an_image_is_classified(
    page: Page, server: Server, way: str, request: pytest.FixtureRequest
) -> None:
    hand_over(page, way)
    answer = server.post("/predict", picture()).json()
    names = [guess["class"] for guess in answer["predictions"][0]]
    result = page.get_by_role("region", name="Result")
    rows = result.get_by_role("list", name="The most probable classes").get_by_role("listitem")
    expect(rows).to_have_count(5)
    for number, guess in enumerate(answer["predictions"][0]):
        expect(rows.nth(number)).to_contain_text(names[number])
        expect(rows.nth(number)).to_contain_text(f"{guess['probability']:.1%}".replace("%", " %"))
    expect(result.get_by_role("heading")).to_contain_text(names[0])
    seen = result.get_by_role("img", name="The image as the network sees it")
    expect(seen).to_be_visible()
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
    expect(page.get_by_text("shape.png, as the network sees it (32×32)")).to_be_visible()
    widths = page.locator(".bar div").evaluate_all("all => all.map(bar => bar.clientWidth)")
    assert widths == sorted(widths, reverse=True)
    folder = request.config.getoption("--screenshots")
    if folder and way == "choose":
        page.screenshot(path=Path(folder) / "serve.png")


def test_it_names_the_model_and_links_its_run(page: Page, study: Study) -> None:
    run_id = study.children["bn"].info.run_id
    expect(page.get_by_text("Model: synthetic-cnn, version")).to_be_visible()
    expect(page.get_by_text("(100 classes, synthetic)")).to_be_visible()
    link = page.get_by_role("link", name=f"run {run_id[:8]}")
    assert str(link.get_attribute("href")).endswith(f"/runs/{run_id}?workflowType=machine_learning")


def test_a_file_that_is_no_image_is_refused_and_the_next_one_works(page: Page) -> None:
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.get_by_label("choose a file").set_input_files(file)  # type: ignore[arg-type]
    expect(page.get_by_role("alert")).to_contain_text("it is not an image of these kinds: JPEG")
    expect(page.get_by_role("region", name="Result")).to_be_hidden()
    hand_over(page, "choose")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_role("region", name="Result")).to_be_visible()


def test_it_fits_a_phone_and_works_by_keyboard(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    try:
        hand_over(page, "choose")
        expect(page.get_by_role("region", name="Result")).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(4):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.href"))
        assert "file" in reached
        assert any(str(one).endswith("/docs") for one in reached)
    finally:
        page.set_viewport_size({"width": 800, "height": 640})


def test_it_says_that_the_server_is_gone(study: Study, browser_page: Page) -> None:
    with serving(study.folder, "--model", "models:/synthetic-cnn@bn") as server:
        browser_page.goto(server.address)
        expect(browser_page.get_by_text("Model: synthetic-cnn")).to_be_visible()
        server.end()
    hand_over(browser_page, "choose")
    expect(browser_page.get_by_role("alert")).to_contain_text("The server does not answer")
