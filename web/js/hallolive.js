// What ComfyUI loads: gives our nodes their player and keeps it in step with the server.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { ClipView } from "./clip_view.mjs";
import { addLatencyChoice } from "./latency.mjs";

const SAMPLER = "HalloLiveStreamSampler";
const PLAYER = "HalloLivePlayer";
const HISTORY_ITEMS = 20; // how far back a reloaded page looks for its clip
const MIN_HEIGHT = 240;
const NEW_WIDTH = 400; // of a new node, and what it is higher than needed: room for a picture
const NEW_EXTRA_HEIGHT = 80;

const views = new Set();

// Before the page is set up: news of a run that goes on while it loads would be an error to it.
api.addEventListener("hallolive.stream", ({ detail }) => follow(detail));

app.registerExtension({
  name: "HalloLive.Player",

  setup() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./clip_view.css", import.meta.url).href;
    document.head.append(style);
  },

  nodeCreated(node) {
    if (node.comfyClass !== SAMPLER && node.comfyClass !== PLAYER) return;
    if (node.comfyClass === SAMPLER) addLatencyChoice(node);
    addView(node);
  },

  afterConfigureGraph() {
    restore().catch((error) => console.warn("Hallo-Live: no clip restored:", error));
  },
});

function addView(node) {
  const view = new ClipView(node, { api, app });
  views.add(view);
  const widget = node.addDOMWidget("player", "HALLOLIVE_PLAYER", view.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => MIN_HEIGHT,
  });
  widget.serialize = false; // else an empty string lands in saved workflows
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, NEW_WIDTH), height + NEW_EXTRA_HEIGHT]);
  const { onExecuted, onRemoved } = node;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    view.showOutput(output);
  };
  node.onRemoved = function () {
    onRemoved?.call(this);
    views.delete(view);
    view.destroy();
  };
}

/** The views that are on the canvas; nodes that went into a subgraph leave their old ones behind. */
function liveViews() {
  for (const view of views) {
    if (view.node.graph) continue;
    views.delete(view);
    view.destroy();
  }
  return [...views];
}

/** Hand the news of a stream to the node that makes it and to the players behind that node. */
function follow(status) {
  const all = liveViews();
  if (!all.length || !isOfThisWorkflow(status.tags.workflow)) return;
  const concerned = all.filter((view) => concerns(view.node, status.tags.node));
  for (const view of concerned.length ? concerned : all) view.follow(status);
}

/** Runs of other tabs, and of programs, which name no workflow, are not shown here. */
function isOfThisWorkflow(id) {
  return id === app.graph.id;
}

/** Ids inside a subgraph are paths such as "6:2"; a node knows only its own part. */
const localId = (executionId) => String(executionId).split(":").at(-1);

function concerns(node, source) {
  if (node.comfyClass === SAMPLER) return String(node.id) === localId(source);
  return feeders(node).some(
    (feeder) => feeder.comfyClass === SAMPLER && String(feeder.id) === localId(source),
  );
}

/** All nodes that something comes from, near ones first. */
function feeders(node) {
  const found = new Set();
  const waiting = [node];
  while (waiting.length) {
    const next = waiting.shift();
    for (let slot = 0; slot < (next.inputs?.length ?? 0); slot += 1) {
      const feeder = next.getInputNode(slot);
      if (!feeder || found.has(feeder)) continue;
      found.add(feeder);
      waiting.push(feeder);
    }
  }
  return [...found];
}

/** After a reload: the stream that is being made, else the newest clip of each node. */
async function restore() {
  const empty = liveViews().filter((view) => view.isEmpty);
  if (!empty.length) return;
  const { sessions } = await json("/hallolive/sessions");
  const running = sessions.filter((status) => status.state === "running");
  for (const status of running) follow(status);
  const unfilled = empty.filter((view) => view.isEmpty);
  if (!unfilled.length) return;
  const history = Object.values(await json(`/history?max_items=${HISTORY_ITEMS}`)).reverse();
  for (const view of unfilled) {
    const output = history.map((run) => outputOf(run, view.node)).find(Boolean);
    if (output && view.isEmpty) view.showOutput(output);
  }
}

/** What a node put out in a run of this workflow, or undefined. */
function outputOf(run, node) {
  const [, , graph, extra] = run.prompt;
  if (!isOfThisWorkflow(extra.extra_pnginfo?.workflow?.id)) return undefined;
  const id = Object.keys(run.outputs).find(
    (key) => localId(key) === String(node.id) && graph[key]?.class_type === node.comfyClass,
  );
  return run.outputs[id];
}

async function json(route) {
  const response = await api.fetchApi(route);
  if (!response.ok) throw new Error(`${route} answered ${response.status}`);
  return response.json();
}
