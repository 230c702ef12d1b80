// A run that trains: its state, the checkpoint that plays, and the learning curve.

import { drawn, element, figure, renew } from "./common.js";
import { badge } from "./rollouts.js";

const [WIDTH, HEIGHT, EDGE] = [600, 200, 6];

/** Shows how a run goes. What it told before stays, where nothing is new. */
export function showRun(place, run) {
  const { trouble } = run;
  renew(place, element("div", [
    element("p", [badge(run.state), ` ${stateOf(run)}`], { class: "run-state" }),
    element("p", trouble === null ? "" : `The newest checkpoint is not served: ${trouble}`, { class: "trouble" }),
    facts(run),
    curve(run),
  ], { id: place.id, class: "card" }));
}

/** One sentence about the checkpoint that plays, and one about the run. */
function stateOf({ state, playing, quiet_seconds: quiet }) {
  const wrote = quiet === null ? "" : ` It last wrote something ${ago(quiet)} ago.`;
  const about = {
    waiting: "The run has saved nothing yet.",
    training: "A new checkpoint takes over at the next game.",
    stopped: `No process works on the run.${wrote} The same train command resumes it.`,
    ended: "The run has reached its end.",
  };
  const plays = playing === null ? "No checkpoint plays yet." : `The checkpoint of step ${whole(playing.steps)} plays; it was saved ${ago(playing.seconds_old)} ago.`;
  return `${plays} ${about[state]}`;
}

function facts({ step, length, curve: points, steps_a_second: speed, exploration, loss, state }) {
  const share = length ? ` of ${whole(length)} (${figure((100 * step) / length, 1)} %)` : "";
  const newest = points.at(-1);
  const named = {
    "Agent step": `${whole(step)}${share}`,
    "Score, mean of the last 100 games": newest ? figure(newest[1], 1) : "–",
    ...(speed === null || state !== "training" ? {} : { "Steps a second": figure(speed, 0) }),
    ...(exploration === null ? {} : { "Random actions": `${figure(100 * exploration, 1)} %` }),
    ...(loss === null ? {} : { "Loss": figure(loss, 4) }),
  };
  const pairs = Object.entries(named).map(([name, value]) => element("div", [element("dt", name), element("dd", value)]));
  return element("dl", pairs, { class: "facts" });
}

/** The learning curve with its axes. Labels are texts of the page, so that they stay legible in a narrow window. */
function curve({ curve: points, evaluations, playing, step }) {
  if (!points.length && !evaluations.length) return element("figure", element("p", "There are no scores yet.", { class: "soft" }));
  const scores = [...points, ...evaluations].map(([, score]) => score);
  const [low, high] = padded(Math.min(...scores), Math.max(...scores));
  const last = Math.max(step, playing?.steps ?? 0, 1);
  const across = (at) => (EDGE + ((WIDTH - 2 * EDGE) * at) / last).toFixed(1);
  const up = (score) => (HEIGHT - (HEIGHT * (score - low)) / (high - low)).toFixed(1);
  const line = drawn("polyline", { class: "score", points: points.map(([at, score]) => `${across(at)},${up(score)}`).join(" ") });
  const dots = evaluations.map(([at, score]) => drawn("path", { class: "evaluation", d: `M${across(at)} ${up(score)}h0` }));
  const mark = playing && drawn("line", { class: "plays", x1: across(playing.steps), x2: across(playing.steps), y1: 0, y2: HEIGHT });
  const label = `Learning curve: from ${figure(scores[0], 1)} to ${figure(scores.at(-1), 1)} points in ${whole(last)} agent steps`;
  const drawing = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, [...(mark ? [mark] : []), line, ...dots]);
  const parts = [
    `Score over agent steps: mean of the last 100 training games${evaluations.length ? " (line), evaluations on the way (dots)" : ""}.`,
    playing ? " The dashed line is the checkpoint that plays." : "",
  ];
  const axis = (name, texts) => element("div", texts.map((text) => element("span", text)), { class: `axis ${name}`, "aria-hidden": "true" });
  const plot = element("div", [
    axis("up", [high, (low + high) / 2, low].map((score) => figure(score, high - low < 10 ? 1 : 0))),
    drawing,
    axis("across", [0, last / 2, last].map((at) => whole(at))),
  ], { class: "curve" });
  return element("figure", [plot, element("figcaption", parts.join(""), { class: "soft" })]);
}

function padded(low, high) {
  const margin = 0.05 * (high - low) || 0.1 * Math.abs(low) || 1;
  return [low - margin, high + margin];
}

function whole(number) {
  return Math.round(number).toLocaleString("en");
}

/** A time in the largest unit that fits. */
function ago(seconds) {
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
  const [size, name] = units.find(([size]) => seconds >= size) ?? [1, "second"];
  const count = Math.floor(seconds / size);
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}
