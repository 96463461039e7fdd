// Bytes of a live stream into a <video>: Media Source Extensions, else the plain URL.

const OPEN_TIMEOUT_MS = 3000;
const KEEP_BEHIND_SECONDS = 30; // what stays in the buffer behind the playhead
const KEEP_AT_LEAST_SECONDS = 5;

/**
 * Play a stream while it is made; resolves when all of it has arrived.
 *
 * video: the element; its `src` is set here. url: of the stream. request: a `fetch` of the host.
 * signal: ends it. onMode: told "mse" or "progressive" once it is known.
 * Throws an Error with the server's words when there is no such stream, AbortError when ended.
 */
export async function feed(video, url, { request, signal, onMode = () => {} }) {
  const response = await request(url, { signal });
  if (!response.ok) throw new Error(await reason(response));
  const source = await openSource(video, response.headers.get("Content-Type") ?? "", signal);
  signal.throwIfAborted();
  if (source === null) {
    await response.body.cancel();
    video.src = url;
    onMode("progressive");
    await played(video, signal);
    return;
  }
  onMode("mse");
  await pump(video, source, response.body.getReader(), signal);
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

/** A media source with a buffer for this content type, or null if the browser or its page refuses. */
async function openSource(video, mime, signal) {
  const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
  if (!Source?.isTypeSupported(mime)) return null;
  const media = new Source();
  const address = URL.createObjectURL(media);
  signal.addEventListener("abort", () => URL.revokeObjectURL(address), { once: true });
  video.disableRemotePlayback = true; // asked for by ManagedMediaSource
  video.src = address;
  const opened = await happens(media, "sourceopen", video, signal);
  if (!opened) return null; // a content security policy without media-src blob:, for one
  return { media, buffer: media.addSourceBuffer(mime) };
}

/** Whether an event comes before an error of the video, the timeout and the end. */
function happens(target, event, video, signal) {
  return new Promise((resolve) => {
    const settle = (answer) => () => {
      clearTimeout(timer);
      target.removeEventListener(event, yes);
      video.removeEventListener("error", no);
      signal.removeEventListener("abort", no);
      resolve(answer);
    };
    const yes = settle(true);
    const no = settle(false);
    const timer = setTimeout(no, OPEN_TIMEOUT_MS);
    target.addEventListener(event, yes);
    video.addEventListener("error", no);
    signal.addEventListener("abort", no);
  });
}

async function pump(video, { media, buffer }, reader, signal) {
  try {
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) break;
      await append(video, buffer, value);
    }
    if (media.readyState === "open") media.endOfStream();
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function append(video, buffer, bytes) {
  await trim(buffer, video.currentTime - KEEP_BEHIND_SECONDS);
  try {
    await updated(buffer, () => buffer.appendBuffer(bytes));
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
    await trim(buffer, video.currentTime - KEEP_AT_LEAST_SECONDS);
    await updated(buffer, () => buffer.appendBuffer(bytes));
  }
}

async function trim(buffer, until) {
  if (buffer.buffered.length && buffer.buffered.start(0) < until - 1) {
    await updated(buffer, () => buffer.remove(0, until));
  }
}

function updated(buffer, change) {
  return new Promise((resolve, reject) => {
    change();
    const listen = { once: true };
    buffer.addEventListener("updateend", resolve, listen);
    buffer.addEventListener("error", () => reject(new Error("the stream is damaged")), listen);
  });
}

/** With the plain URL all is left to the browser; it begins some seconds later. */
function played(video, signal) {
  return new Promise((resolve, reject) => {
    const listen = { once: true, signal };
    video.addEventListener("ended", resolve, listen);
    video.addEventListener("error", () => reject(new Error("the stream cannot be played")), listen);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
