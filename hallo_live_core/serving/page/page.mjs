// The page of `hallo-live serve`: a form, the player, and the clips of the last minutes.

import { LivePlayer } from "./player/player.mjs";

const POLL_MS = 400;
const IDLE_POLL_MS = 3000;
const ENDED = ["finished", "stopped", "failed"];

const $ = (id) => document.getElementById(id);
const sessionUrl = (id, action = "") => `hallolive/sessions/${id}${action}`;
const streamUrl = (id) => `hallolive/stream/${id}?from=start`;

const player = new LivePlayer({
  onFinish: () => tell("finish"),
  onStop: () => tell("cancel"),
  onSay: (text) => call(sessionUrl(current, "/say"), { text }),
});
$("player").append(player.element);
let current = null; // id of the clip in the player
let timer = 0;
let listed = ""; // what the list of clips shows

async function call(url, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(url, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function attempt(action) {
  $("problem").textContent = "";
  try {
    await action();
  } catch (error) {
    $("problem").textContent = error.message;
  }
}

function tell(switchName) {
  return attempt(() => call(sessionUrl(current, `/${switchName}`), {}));
}

/** Show a clip: as a stream while it is made, as a file when it is there. */
function show(id, isMade) {
  current = id;
  $("links").hidden = false;
  $("stream-link").href = streamUrl(id);
  $("file-link").href = sessionUrl(id, "/file");
  $("file-part").hidden = true;
  if (isMade) player.clear();
  else player.watch(streamUrl(id));
  refresh();
}

/** Ask where all clips stand; soon again while something happens. */
async function refresh() {
  clearTimeout(timer);
  let isBusy = false;
  try {
    const { sessions } = await call("hallolive/sessions");
    isBusy = sessions.some((status) => !ENDED.includes(status.state));
    if (current === null && sessions.length > 0) {
      const { id, state } = sessions.at(-1); // after a reload: what was there
      show(id, ENDED.includes(state));
      return;
    }
    list(sessions);
    const status = sessions.find((candidate) => candidate.id === current);
    if (status) follow(status);
  } catch {
    // The server is away for a moment; the next look will tell.
  }
  timer = setTimeout(refresh, isBusy ? POLL_MS : IDLE_POLL_MS);
}

function follow(status) {
  player.setStatus(status);
  const hasFile = ENDED.includes(status.state) && status.seconds > 0;
  if (hasFile && $("file-part").hidden) {
    $("file-part").hidden = false;
    player.showFile(sessionUrl(status.id, "/file"));
  }
}

function list(sessions) {
  const seen = JSON.stringify(sessions.map(({ id, state }) => [id, state, id === current]));
  if (seen === listed) return; // as it was: leave the buttons and their focus alone
  listed = seen;
  const rows = sessions.toReversed().map((status) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-current", String(status.id === current));
    button.append(span("prompt", status.tags.prompt), span("state", status.state));
    button.addEventListener("click", () => show(status.id, ENDED.includes(status.state)));
    row.append(button);
    return row;
  });
  $("clips").replaceChildren(...rows);
}

function span(className, text) {
  return Object.assign(document.createElement("span"), { className, textContent: text });
}

async function generate(event) {
  event.preventDefault();
  const { prompt, ...numbers } = Object.fromEntries(new FormData($("form")));
  const settings = Object.fromEntries(
    Object.entries(numbers).map(([name, text]) => [name, Number(text)]),
  );
  $("go").disabled = true;
  await attempt(async () => {
    const { id } = await call("api/generate", { prompt, ...settings });
    show(id, false);
  });
  $("go").disabled = false;
}

async function fillIn() {
  const { prompt, ...settings } = await call("api/settings");
  if (prompt) $("prompt").value = prompt;
  for (const [name, value] of Object.entries(settings)) $("form").elements[name].value = value;
}

$("form").addEventListener("submit", generate);
await attempt(fillIn);
refresh();
