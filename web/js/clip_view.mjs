// The player in a node, with a line of numbers below it and the report that users copy.

import { LivePlayer } from "../player/player.mjs";
import { copyText, writeReport } from "./report.mjs";

const GIGA = 1e9;
const NOTE_MS = 2500; // how long the button says that the report is copied
const POINTER_EVENTS = ["pointerdown", "pointerup", "pointermove", "wheel", "contextmenu"];

export class ClipView {
  constructor(node, { api, app }) {
    this.node = node;
    this.api = api;
    this.app = app;
    this.status = null;
    this.player = new LivePlayer({
      onFinish: () => this.turn("finish"),
      onStop: () => this.turn("cancel"),
      onSay: (text) => this.say(text),
    });
    this.build();
  }

  build() {
    this.numbers = Object.assign(document.createElement("span"), { className: "hl-numbers" });
    this.copy = Object.assign(document.createElement("button"), {
      type: "button",
      className: "hl-copy",
      textContent: "Copy report",
      title: "Versions, settings and numbers for a bug report; not your prompt",
    });
    this.copy.addEventListener("click", () => this.copyReport());
    const line = document.createElement("div");
    line.className = "hl-report";
    line.append(this.numbers, this.copy);
    this.element = document.createElement("div");
    this.element.className = "hl-clip";
    this.element.append(this.player.element, line);
    for (const event of POINTER_EVENTS) {
      this.element.addEventListener(event, (happened) => happened.stopPropagation());
    }
  }

  /** Whether there is nothing to see here yet. */
  get isEmpty() {
    return this.player.mode === "empty" && this.status === null;
  }

  /** News of a stream: play it when it is new, and show what the end has left. */
  follow(status) {
    const isNew = status.id !== this.status?.id;
    if (isNew && status.state === "running") {
      this.player.watch(this.url(`/hallolive/stream/${status.id}?from=start`));
    }
    this.setStatus(status);
    if (status.state === "stopped" && status.seconds > 0) {
      this.player.showFile(this.viewUrl({ filename: status.tags.file, type: "temp" }));
    }
  }

  /** What the node has put out, now or in an earlier run that need not be repeated. */
  showOutput({ video, hallolive }) {
    if (hallolive?.length) this.setStatus(hallolive[0]);
    if (video?.length) this.player.showFile(this.viewUrl(video[0]));
  }

  setStatus(status) {
    this.status = status;
    this.player.setStatus(status);
    this.numbers.textContent = summary(status);
  }

  destroy() {
    this.player.destroy();
    this.element.remove();
  }

  url(route) {
    return this.api.apiURL(route);
  }

  viewUrl({ filename, subfolder = "", type }) {
    return this.url(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  }

  turn(name, body = {}) {
    return this.api.fetchApi(`/hallolive/sessions/${this.status.id}/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  }

  async say(text) {
    const answer = await this.turn("say", { text });
    if (!answer.ok) throw new Error((await answer.json()).error);
  }

  async copyReport() {
    let note = "Copied";
    try {
      await copyText(await writeReport(this.node, this.status, this.api));
    } catch (error) {
      note = "Not copied";
      console.warn("Hallo-Live: the report was not copied:", error);
    }
    this.copy.textContent = note;
    setTimeout(() => {
      this.copy.textContent = "Copy report";
    }, NOTE_MS);
  }
}

/** First picture, speed, memory and the queue of the encoders, in one line. */
export function summary(status) {
  if (!status) return "";
  const gigabytes = (bytes) => (bytes / GIGA).toFixed(1);
  const parts = [
    status.first_after === null ? "" : `first picture ${status.first_after.toFixed(1)} s`,
    status.speed ? `${status.speed.toFixed(2)}× real time` : "",
    status.memory_total
      ? `${gigabytes(status.memory_used)} of ${gigabytes(status.memory_total)} GB memory`
      : "",
    status.num_waiting === undefined ? "" : `encoder queue ${status.num_waiting}`,
  ];
  return parts.filter(Boolean).join(" · ");
}
