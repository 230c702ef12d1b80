// The versions online and the rollouts: tables, and orders with the operator's token.

import { drawn, element, figure, titled } from "./common.js";

const ORDERS = {
  preparing: ["abort"],
  progressing: ["pause", "abort"],
  paused: ["resume", "abort"],
  succeeded: ["undo"],
};
const COLUMNS = ["Role", "Version", "Share", "Sessions", "Games", "Mean score", "Scores", "Failed", "Errors", "Slow", "Left early"];

/** Shows who plays each game. */
export function showDeployments(place, deployments) {
  place.replaceChildren(
    ...deployments.map((one) => variantsTable(one.variants, `${titled(one.game)}: who plays it`)),
  );
}

/** Shows all rollouts, the newest first; `order(number, what)` carries out a button. */
export function showRollouts(place, rollouts, order) {
  const focused = document.activeElement?.dataset.order;
  const cards = rollouts.toReversed().map((one) => rolloutCard(one, order));
  place.replaceChildren(...(cards.length ? cards : [element("p", "There was none yet.", { class: "soft" })]));
  if (focused) place.querySelector(`[data-order="${focused}"]`)?.focus();
}

function rolloutCard(one, order) {
  const title = `Rollout ${one.id}: ${one.strategy} of version ${one.version} in ${titled(one.game)}`;
  const state = element("strong", one.state.replaceAll("_", " "), { class: `badge ${one.state}` });
  const step = ` step ${one.step + 1} of ${one.steps}, begun by ${one.opened_by}`;
  const buttons = (ORDERS[one.state] ?? []).map((what) => {
    const name = what[0].toUpperCase() + what.slice(1);
    const button = element("button", name, {
      type: "button", "data-order": `${one.id} ${what}`, "aria-label": `${name} rollout ${one.id}`,
    });
    button.onclick = () => order(one.id, what);
    return button;
  });
  return element("article", [
    element("h3", title),
    element("p", [state, step]),
    ...(one.note ? [element("p", one.note)] : []),
    facts({
      "Won, tied, lost": `${one.wins}, ${one.ties}, ${one.losses}`,
      "E-value: it is better": `${figure(one.e_value)} of ${figure(one.bound, 0)}`,
      "E-value: it is worse": `${figure(one.e_value_worse)} of ${figure(one.bound_worse, 0)}`,
      "Games it touched": one.touched,
    }),
    ...(one.history.length > 1 ? [eValues(one)] : []),
    variantsTable(one.variants, `Variants of rollout ${one.id}`),
    element("p", buttons, { class: "row" }),
  ], { class: "card" });
}

function facts(named) {
  const pairs = Object.entries(named).map(([name, value]) =>
    element("div", [element("dt", name), element("dd", String(value))]));
  return element("dl", pairs, { class: "facts" });
}

/** Both e-values after each pair, on one logarithmic scale, with the bounds where they decide. */
function eValues({ id, history, history_worse: worse, bound, bound_worse: alarm }) {
  const logs = [...history, ...worse, bound, alarm, 1].map((value) => Math.log10(Math.max(value, 1e-12)));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const height = (value) => 76 - (72 * (Math.log10(Math.max(value, 1e-12)) - low)) / (high - low);
  const path = (values, name) => drawn("polyline", {
    class: name,
    points: values.map((value, index) => `${(300 * index) / (values.length - 1)},${height(value).toFixed(1)}`).join(" "),
  });
  const bar = (value, name) => drawn("line", { x1: 0, x2: 300, y1: height(value), y2: height(value), class: `${name} bound` });
  const label = `E-values of rollout ${id} after each of ${history.length - 1} pairs`;
  const drawing = drawn(
    "svg",
    { viewBox: "0 0 300 80", preserveAspectRatio: "none", class: "evalues", role: "img", "aria-label": label },
    [bar(bound, "better"), bar(alarm, "worse"), path(history, "better"), path(worse, "worse")],
  );
  const caption =
    `After each of ${history.length - 1} pairs, on a logarithmic scale from ${short(10 ** low)} to ${short(10 ** high)}: ` +
    `evidence that it is better (solid; from ${figure(bound, 0)} on it may pass) and that it is worse (dashed; from ` +
    `${figure(alarm, 0)} on it is rolled back).`;
  return element("figure", [drawing, element("figcaption", caption, { class: "soft" })]);
}

function short(value) {
  return value >= 0.01 && value < 1e6 ? figure(value, value < 10 ? 2 : 0) : value.toExponential(0);
}

function variantsTable(variants, caption) {
  const all = variants.flatMap((one) => one.scores);
  const range = all.length ? [Math.min(0, ...all), Math.max(...all)] : null;
  const headings = COLUMNS.map((name) =>
    element("th", name === "Scores" && range ? `Scores, ${range.map((one) => figure(one, 0)).join(" to ")}` : name, { scope: "col" }));
  const rows = variants.map((one) => element("tr", [
    element("th", one.role, { scope: "row" }),
    ...[one.version, `${figure(100 * one.share, 0)} %`, one.sessions, one.games].map(cell),
    cell(one.mean === null ? "–" : figure(one.mean, 1)),
    element("td", range ? strip(one, range) : "–"),
    ...[one.failed, one.errors, one.slow, one.abandoned].map(cell),
  ]));
  const table = element("table", [element("caption", caption), element("thead", element("tr", headings)), element("tbody", rows)]);
  return element("div", table, { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" });
}

function cell(value) {
  return element("td", String(value), { class: "number" });
}

/** All scores of a variant as strokes on one scale, with the mean. */
function strip({ role, scores, mean }, [low, high]) {
  const place = (score) => 4 + (152 * (score - low)) / (high - low || 1);
  const stroke = (score, name, top, bottom) =>
    drawn("line", { x1: place(score), x2: place(score), y1: top, y2: bottom, class: name });
  const strokes = scores.map((score) => stroke(score, "score", 5, 19));
  if (mean !== null) strokes.push(stroke(mean, "mean", 1, 23));
  const label = mean === null ? `${role}: no scores` : `${role}: ${scores.length} scores around ${figure(mean, 1)}`;
  return drawn("svg", { viewBox: "0 0 160 24", class: "strip", role: "img", "aria-label": label }, strokes);
}
