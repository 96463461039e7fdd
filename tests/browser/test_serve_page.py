"""The page of `hallo-live serve` in a real browser; skipped without Chromium or Playwright."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

WAIT_MS = 60_000
LOOK_MS = 50
AUDIO_BYTES = "document.querySelector('video').webkitAudioDecodedByteCount"
TIME = "document.querySelector('video').currentTime"
STATE = "document.querySelector('.hl-player').dataset.state"
MODE = "document.querySelector('.hl-player').dataset.mode"


@pytest.fixture(scope="module")
def server(serve) -> Iterator[str]:
    """The address of `hallo-live serve` with the tiny model."""
    with serve("--size", "64x128") as address:
        yield address


@pytest.fixture
def page(browser, server):
    """The page, opened; fails if the browser complains about anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.complaints = complaints
    page.goto(server)
    wait_for(page, "document.querySelector('input[name=width]').value === '128'")
    yield page
    page.close()
    assert not complaints


def generate(page, *, seconds: int, prompt: str | None = None) -> None:
    """Ask for a clip, and wait until the player shows that one instead of an earlier test's."""
    if prompt is not None:
        page.fill("#prompt", prompt)
    page.fill("input[name=seconds]", str(seconds))
    with page.expect_response("**/api/generate") as answer:
        page.click("#go")
    session = answer.value.json()["id"]
    wait_for(page, f"document.getElementById('stream-link').href.includes('{session}')")


def wait_for(page, condition: str) -> None:
    """Look every 50 ms; not `wait_for_function`, which the page's policy against eval forbids."""
    for _ in range(WAIT_MS // LOOK_MS):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(LOOK_MS)
    pytest.fail(f"{condition} did not happen; the page says: {page.inner_text('.hl-line')}")


def test_picture_and_sound_play_before_the_clip_is_done_and_then_the_file(page, tmp_path):
    generate(page, seconds=9)
    wait_for(page, f"{TIME} > 0.3 && {STATE} === 'running'")
    assert page.evaluate(MODE) == "mse"
    earlier = page.evaluate(TIME)
    wait_for(page, f"{TIME} > {earlier + 0.3} && {STATE} === 'running'")
    wait_for(page, f"{AUDIO_BYTES} > 0")
    assert "Block" in page.inner_text(".hl-line")
    page.screenshot(path=tmp_path / "playing.png")
    assert page.is_visible(".hl-unmute")
    page.click(".hl-unmute")
    assert page.evaluate("document.querySelector('video').muted") is False
    assert page.is_hidden(".hl-unmute")
    wait_for(page, f"{MODE} === 'file'")
    assert "Done" in page.inner_text(".hl-line")
    wait_for(page, "Math.abs(document.querySelector('video').duration - 213 / 24) < 0.05")
    page.screenshot(path=tmp_path / "file.png")
    assert page.is_visible("#file-link")


def test_finish_ends_the_clip_early_and_keeps_it(page, tmp_path):
    generate(page, seconds=30)
    wait_for(page, f"{TIME} > 0.1 && {STATE} === 'running'")
    page.click(".hl-finish")
    wait_for(page, f"{STATE} === 'finished'")
    wait_for(page, f"{MODE} === 'file'")
    wait_for(page, "document.querySelector('video').duration > 0.8")
    assert page.evaluate("document.querySelector('video').duration") < 25
    page.screenshot(path=tmp_path / "finished.png")


def test_stop_stops_and_keeps_what_was_made(page):
    generate(page, seconds=30)
    wait_for(page, f"{TIME} > 0.1 && {STATE} === 'running'")
    page.click(".hl-stop")
    wait_for(page, f"{STATE} === 'stopped'")
    assert "Stopped" in page.inner_text(".hl-line")
    wait_for(page, f"{MODE} === 'file'")


def test_a_prompt_with_markup_is_shown_as_text(page):
    prompt = '<img src=x onerror="window.hacked=1"><b>A woman</b> says, <S>Hello.<E>'
    generate(page, seconds=1, prompt=prompt)
    wait_for(page, f"{STATE} === 'finished'")
    assert page.inner_text("#clips li:first-child .prompt") == prompt
    assert page.evaluate("window.hacked") is None
    assert page.query_selector("#clips img, #clips b") is None


def test_a_refusal_is_shown_in_words(page):
    page.fill("#prompt", "She says <S>hello")
    page.click("#go")
    wait_for(page, "document.getElementById('problem').textContent.includes('<S>')")
    page.complaints.clear()  # the browser reports the answer 400


@pytest.mark.slow
def test_without_media_source_the_plain_url_plays(page):
    page.evaluate("globalThis.ManagedMediaSource = globalThis.MediaSource = undefined")
    generate(page, seconds=12)
    wait_for(page, f"{MODE} === 'progressive'")
    wait_for(page, f"{TIME} > 0.3")
    wait_for(page, f"{MODE} === 'file'")


def test_after_a_reload_the_newest_clip_is_there_and_others_can_be_opened(page):
    generate(page, seconds=1)
    wait_for(page, f"{STATE} === 'finished'")
    page.reload()
    wait_for(page, f"{MODE} === 'file' && {STATE} === 'finished'")
    page.click("#clips li:last-child button")
    wait_for(page, "document.querySelector('#clips li:last-child button').ariaCurrent === 'true'")
    wait_for(page, f"{MODE} === 'file' && {STATE} === 'finished'")
    wait_for(page, "document.querySelector('video').readyState >= 2")


def test_where_a_policy_forbids_media_source_the_plain_url_plays(page, server):
    def without_blobs(route):
        answer = route.fetch()
        policy = answer.headers["content-security-policy"].replace(" blob:", "")
        route.fulfill(
            response=answer, headers={**answer.headers, "content-security-policy": policy}
        )

    page.route(f"{server}/", without_blobs)
    page.reload()
    wait_for(page, "document.querySelector('input[name=width]').value === '128'")
    generate(page, seconds=8)
    wait_for(page, f"{MODE} === 'progressive'")
    wait_for(page, f"{TIME} > 0.3")
    assert any("blob:" in complaint for complaint in page.complaints)
    page.complaints.clear()


@pytest.mark.slow
def test_a_late_viewer_plays_from_the_newest_key_frame_on(page):
    generate(page, seconds=20)
    wait_for(page, f"{TIME} > 1.2 && {STATE} === 'running'")
    page.evaluate(
        """async () => {
            const { LivePlayer } = await import("/player/player.mjs");
            window.late = new LivePlayer();
            document.body.append(window.late.element);
            const { sessions } = await (await fetch("/hallolive/sessions")).json();
            window.late.watch(`/hallolive/stream/${sessions.at(-1).id}`);
        }"""
    )
    wait_for(page, "window.late.video.currentTime > 0")
    assert page.evaluate("window.late.video.currentTime") > 0.5  # where the sound of block 2 begins
    began = page.evaluate("window.late.video.currentTime")
    wait_for(page, f"window.late.video.currentTime > {began + 0.2}")
    page.evaluate("window.late.destroy()")
    assert page.evaluate("document.querySelectorAll('.hl-player').length") == 1
    page.click(".hl-stop")
    wait_for(page, f"{STATE} === 'stopped'")


def test_a_stream_without_end_can_be_told_what_to_say_and_finished(page):
    generate(page, seconds=0)
    wait_for(page, f"{TIME} > 0.1 && {STATE} === 'running'")
    assert page.inner_text(".hl-line").startswith("Block 1 ·") or page.is_visible(".hl-say")
    page.fill(".hl-words", "Tea? <S>")
    page.press(".hl-words", "Enter")
    wait_for(page, "document.querySelector('.hl-words').validationMessage.includes('<S>')")
    page.complaints.clear()  # the browser reports the answer 400
    page.fill(".hl-words", "Tea?")
    page.press(".hl-words", "Enter")
    wait_for(page, "document.querySelector('.hl-words').value === ''")
    page.click(".hl-finish")
    wait_for(page, f"{STATE} === 'finished'")
    assert page.is_hidden(".hl-say")
