// What a user pastes into an issue: versions, settings, numbers. No prompt, no paths.

const OUR_NODES = /^HalloLive/;
const PRIVATE_NODES = ["HalloLiveTextEncode"];
const NOT_NUMBERS = ["id", "tags", "version"];
const GIGA = 1e9;

/** The report as Markdown. node: the one with the player; status: of its last run, or null. */
export async function writeReport(node, status, api) {
  const lines = ["### Hallo-Live report", "", ...(await versions(status, api)), ""];
  for (const other of node.graph.nodes ?? node.graph._nodes) {
    if (!OUR_NODES.test(other.comfyClass) || PRIVATE_NODES.includes(other.comfyClass)) continue;
    const settings = (other.widgets ?? [])
      .filter((widget) => widget.serialize !== false)
      .map((widget) => `${widget.name}=${widget.value}`);
    lines.push(`- ${other.comfyClass}: ${settings.join(", ") || "no settings"}`);
  }
  if (status) {
    const numbers = Object.entries(status).filter(([name]) => !NOT_NUMBERS.includes(name));
    lines.push("", "```json", JSON.stringify(Object.fromEntries(numbers), null, 1), "```");
  }
  return lines.join("\n");
}

async function versions(status, api) {
  const response = await api.fetchApi("/system_stats");
  const { system, devices } = await response.json();
  const python = system.python_version.split(" ")[0];
  const parts = [
    `Hallo-Live ${status?.version ?? "(not run yet)"}`,
    `ComfyUI ${system.comfyui_version}`,
    `frontend ${globalThis.__COMFYUI_FRONTEND_VERSION__ ?? "unknown"}`,
    `Python ${python}`,
    `PyTorch ${system.pytorch_version}`,
    system.os,
    navigator.userAgent,
  ];
  const cards = devices.map((card) => `${card.name} (${(card.vram_total / GIGA).toFixed(1)} GB)`);
  return [...parts, ...cards].map((part) => `- ${part}`);
}

/** To the clipboard; pages that are not served over HTTPS have only the old way. */
export async function copyText(text) {
  if (navigator.clipboard && globalThis.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = Object.assign(document.createElement("textarea"), { value: text });
  area.style.cssText = "position:fixed;opacity:0";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("the browser refused");
}
