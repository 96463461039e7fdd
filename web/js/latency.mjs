// The latency choice of the stream sampler: words that set the inputs one can see, nothing else.
// It is not saved and not sent: what counts are the inputs, and it shows which words fit them.

const CUSTOM = "custom";
const LIGHT = /taew2_2/i;

/** lookahead: audio latents of 32 ms; light: whether the light video decoder is chosen. */
const CHOICES = {
  conversation: { lookahead: 0, light: true },
  balanced: { lookahead: 5, light: false },
  best: { lookahead: 30, light: false },
};

const TOOLTIP = [
  "Sets lookahead here and, where it is connected and there is a choice, video_vae in the loader.",
  "conversation: no look-ahead, light decoder. The earliest picture, for 200 times less decoding",
  "work; softer, and lips may move late.",
  "balanced: look-ahead 5. The mouth hears 160 ms ahead; the full decoder costs its time in every",
  "block.",
  "best: look-ahead 30, a whole block. The mouth hears 0.96 s ahead; each pass also sketches the",
  "sound of the next block, so every block comes a little later.",
].join(" ");

/** Add the choice to a stream sampler, below its inputs. */
export function addLatencyChoice(node) {
  const values = [...Object.keys(CHOICES), CUSTOM];
  const choice = node.addWidget("combo", "latency", CUSTOM, (name) => apply(node, name), {
    values,
    serialize: false,
  });
  choice.serialize = false;
  choice.tooltip = TOOLTIP;
  const update = () => {
    const name = nameOf(node);
    if (choice.value !== name) set(choice, name);
  };
  const lookahead = widgetOf(node, "lookahead");
  const { callback } = lookahead;
  lookahead.callback = function (...values) {
    callback?.apply(this, values);
    update();
  };
  const { onConfigure } = node;
  node.onConfigure = function (...values) {
    onConfigure?.apply(this, values);
    requestAnimationFrame(update); // when the loader has its values, too
  };
  update();
}

function apply(node, name) {
  const wanted = CHOICES[name];
  if (!wanted) return;
  const decoder = decoderOf(node);
  const file = decoder?.options.values.find((value) => LIGHT.test(value) === wanted.light);
  if (file && LIGHT.test(decoder.value) !== wanted.light) set(decoder, file);
  set(widgetOf(node, "lookahead"), wanted.lookahead);
}

/** The words for what the inputs say. */
function nameOf(node) {
  const lookahead = Number(widgetOf(node, "lookahead").value);
  const decoder = decoderOf(node);
  const isLight = LIGHT.test(decoder?.value);
  const hasChoice = decoder?.options.values.some((value) => LIGHT.test(value) !== isLight);
  const fits = ([, wanted]) =>
    wanted.lookahead === lookahead && !(hasChoice && wanted.light !== isLight);
  return Object.entries(CHOICES).find(fits)?.[0] ?? CUSTOM;
}

function decoderOf(node) {
  if (!node.graph) return undefined; // a node that is being made has no connections yet
  const loader = node.getInputNode(node.findInputSlot("vae"));
  return loader ? widgetOf(loader, "video_vae") : undefined;
}

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

function set(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}
