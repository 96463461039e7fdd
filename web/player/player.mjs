// The live player: shows a stream while it is made, says where it stands, then shows the finished
// file. One element, no dependency, the same in ComfyUI and on the page of `hallo-live serve`.

import { feed } from "./feed.mjs";

const TICK_MS = 250;
const START_SECONDS = 0.1; // buffered before playing begins
const CATCH_UP_SECONDS = 2; // farther behind than this, play a little faster
const CATCH_UP_RATE = 1.06;
const JUMP_OFFER_SECONDS = 4; // farther behind than this, offer to jump
const EDGE_SECONDS = 0.5; // where a jump lands, before the newest data
const MAX_WORDS = 4000;
const ENDED = ["finished", "stopped", "failed"];

/**
 * player.element goes where the host wants it. `watch(url)` plays a stream, `setStatus(status)`
 * tells where it stands (the JSON of a session), `showFile(url)` shows a finished clip, once what
 * is playing has ended. `destroy()` ends everything.
 *
 * Options: request, a `fetch` of the host; onFinish and onStop, called by the two buttons; onSay,
 * called with words that should be said next, may throw why they cannot be.
 */
export class LivePlayer {
  constructor({ request = (...args) => fetch(...args), onFinish, onStop, onSay } = {}) {
    this.request = request;
    this.mode = "empty"; // empty, mse, progressive, file
    this.status = null;
    this.problem = "";
    this.nextFile = null;
    this.ending = new AbortController();
    this.streaming = null;
    this.build(onFinish, onStop);
    this.buildSay(onSay);
    this.timer = setInterval(() => this.tick(), TICK_MS);
    this.render();
  }

  build(onFinish, onStop) {
    this.video = make("video", { playsInline: true, muted: true, className: "hl-video" });
    this.video.setAttribute("aria-label", "Generated clip");
    this.badge = make("span", { className: "hl-badge", textContent: "Live", hidden: true });
    this.unmute = button("hl-unmute", "Click for sound", () => this.setMuted(false));
    this.mute = button("hl-mute", "Mute", () => this.setMuted(!this.video.muted));
    this.jump = button("hl-jump", "Go to live", () => this.jumpToEdge());
    this.finish = button("hl-finish", "Finish", () => onFinish?.());
    this.finish.title = "End the clip after the current block and keep what exists";
    this.stop = button("hl-stop", "Stop", () => onStop?.());
    this.stop.title = "Stop at once";
    this.line = make("span", { className: "hl-line" });
    this.spoken = make("span", { className: "hl-spoken", role: "status" }); // not four times a second
    const stage = make("div", { className: "hl-stage" });
    stage.append(this.video, this.badge, this.unmute);
    const bar = make("div", { className: "hl-bar" });
    bar.append(this.line, this.spoken, this.jump, this.mute, this.finish, this.stop);
    this.element = make("div", { className: "hl-player" });
    this.element.append(stage, bar);
    const listen = { signal: this.ending.signal };
    for (const event of ["volumechange", "playing", "waiting", "pause", "seeked"]) {
      this.video.addEventListener(event, () => this.render(), listen);
    }
    this.video.addEventListener("ended", () => this.streamPlayed(), listen);
    this.video.addEventListener("resize", () => this.takeShape(), listen);
  }

  /** The line in which people type what is said next; for streams that can be told. */
  buildSay(onSay) {
    this.words = make("input", { type: "text", className: "hl-words", maxLength: MAX_WORDS });
    this.words.placeholder = "Say next …";
    this.words.setAttribute("aria-label", "Say next");
    this.words.addEventListener("input", () => this.words.setCustomValidity(""));
    this.say = make("form", { className: "hl-say", hidden: true });
    this.say.append(this.words, make("button", { type: "submit", textContent: "Say" }));
    this.say.addEventListener("submit", async (event) => {
      event.preventDefault();
      const words = this.words.value.trim();
      if (!words) return;
      try {
        await onSay?.(words);
        this.words.value = "";
      } catch (error) {
        this.words.setCustomValidity(error.message);
        this.words.reportValidity();
      }
    });
    this.element.append(this.say);
  }

  /** Play a stream from now on; whatever was playing goes away. */
  async watch(url) {
    this.clear();
    const streaming = new AbortController();
    this.streaming = streaming;
    try {
      await feed(this.video, url, {
        request: this.request,
        signal: streaming.signal,
        onMode: (mode) => this.setMode(mode),
      });
    } catch (error) {
      if (streaming.signal.aborted) return;
      this.problem = error.message;
      this.streamPlayed();
    }
    this.render();
  }

  /** Take note of where the stream stands. */
  setStatus(status) {
    this.status = status;
    this.render();
  }

  /** Show a finished clip; while a stream is playing, only when that has been seen. */
  showFile(url) {
    this.nextFile = url;
    const isPlaying =
      this.isLive && !this.video.ended && !this.problem && this.video.readyState > 0;
    if (!isPlaying) this.swap();
  }

  /** Back to nothing. */
  clear() {
    this.streaming?.abort();
    this.streaming = null;
    this.status = this.nextFile = null;
    this.problem = "";
    this.video.playbackRate = 1;
    this.video.controls = false;
    this.video.removeAttribute("src");
    this.video.load();
    this.setMode("empty");
  }

  /** Leave the page: end the stream, drop the timer and all listeners. */
  destroy() {
    this.clear();
    clearInterval(this.timer);
    this.ending.abort();
    this.element.remove();
  }

  /** Tell the stage how wide it is for its height; a portrait must not push the buttons away. */
  takeShape() {
    const { videoWidth, videoHeight } = this.video;
    if (!videoHeight) return;
    this.element.style.setProperty("--hl-shape", Math.max(1, videoWidth / videoHeight));
  }

  get isLive() {
    return this.mode === "mse" || this.mode === "progressive";
  }

  /** Seconds of the stream that are here but have not been seen. */
  get behind() {
    const { buffered, currentTime } = this.video;
    return buffered.length ? Math.max(0, buffered.end(buffered.length - 1) - currentTime) : 0;
  }

  setMode(mode) {
    this.mode = mode;
    this.element.dataset.mode = mode;
    if (mode === "progressive") this.play();
    this.render();
  }

  setMuted(muted) {
    this.video.muted = muted;
    if (!muted) this.play();
  }

  play() {
    this.video.play().catch(() => {}); // the browser may want a click first
  }

  jumpToEdge() {
    const { buffered } = this.video;
    const last = buffered.length - 1;
    if (last < 0) return;
    this.video.currentTime = Math.max(buffered.start(last), buffered.end(last) - EDGE_SECONDS);
    this.play();
  }

  streamPlayed() {
    if (this.isLive && this.nextFile) this.swap();
    this.render();
  }

  swap() {
    const url = this.nextFile;
    this.streaming?.abort();
    this.streaming = this.nextFile = null;
    this.video.playbackRate = 1;
    this.video.src = url;
    this.video.controls = true;
    this.setMode("file");
  }

  tick() {
    if (this.mode !== "mse" || !this.video.buffered.length) return;
    this.crossGap();
    const { video } = this;
    const isFresh = video.paused && video.played.length === 0;
    if (isFresh && this.behind >= START_SECONDS) this.play();
    const isMade = ENDED.includes(this.status?.state);
    video.playbackRate = !isMade && this.behind > CATCH_UP_SECONDS ? CATCH_UP_RATE : 1;
    this.render();
  }

  /** Late viewers begin after zero, and whoever was skipped ahead has a hole in the buffer. */
  crossGap() {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i += 1) {
      if (currentTime < buffered.start(i)) {
        this.video.currentTime = buffered.start(i);
        return;
      }
      if (currentTime < buffered.end(i) - 0.05) return;
    }
  }

  render() {
    const state = this.status?.state;
    const isRunning = state === "running" || state === "waiting";
    const isSilent = this.video.muted && this.mode !== "empty";
    this.badge.hidden = !(isRunning && this.isLive);
    this.unmute.hidden = !isSilent || this.mode === "file";
    this.mute.hidden = this.mode === "empty" || this.mode === "file";
    this.mute.textContent = this.video.muted ? "Unmute" : "Mute";
    this.mute.setAttribute("aria-pressed", String(this.video.muted));
    this.jump.hidden = !(isRunning && this.mode === "mse" && this.behind > JUMP_OFFER_SECONDS);
    this.finish.hidden = this.stop.hidden = !isRunning;
    this.say.hidden = !isRunning || (this.status.num_lines ?? null) === null;
    this.element.dataset.state = state ?? "empty";
    setText(this.line, this.problem || describe(this.status, this.isLive ? this.behind : 0));
    setText(this.spoken, this.problem || announce(this.status));
  }
}

/** A status in one line. behind: seconds that are here and not seen yet. */
export function describe(status, behind = 0) {
  if (!status) return "";
  const speed = `${status.speed.toFixed(2)}× real time`;
  const length = `${status.seconds.toFixed(1)} s`;
  switch (status.state) {
    case "waiting":
      return "Waiting for its turn";
    case "running": {
      if (!status.block) return "Reading the prompt";
      const block = `Block ${status.block}${status.num_blocks ? ` of ${status.num_blocks}` : ""}`;
      if (!status.seconds) return `${block}, no picture yet`;
      const waiting = status.num_lines ? ` · ${status.num_lines} to be said` : "";
      return `${block} · ${speed} · ${behind.toFixed(1)} s behind${waiting}`;
    }
    case "finished":
      return `Done · ${length} · ${speed} · first picture after ${status.first_after.toFixed(1)} s`;
    case "stopped":
      return status.seconds ? `Stopped · kept ${length}` : "Stopped";
    default:
      return `Failed: ${status.error}`;
  }
}

/** What a screen reader is told: the state and the block, no numbers that move. */
function announce(status) {
  if (!status) return "";
  return status.state === "running" ? `Making block ${status.block}` : `Clip ${status.state}`;
}

function setText(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function make(tag, properties) {
  const { role, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  if (role) element.setAttribute("role", role);
  return element;
}

function button(className, label, action) {
  const element = make("button", { type: "button", className, textContent: label });
  element.addEventListener("click", action);
  return element;
}
