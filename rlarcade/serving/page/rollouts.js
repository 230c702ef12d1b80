// The versions online, the workers and the rollouts: tables, and orders with the operator's token.

import { drawn, element, figure, renew, titled } from "./common.js";

const GAMES = ["Role", "Version", "Share", "Sessions", "Games", "Mean score", "Scores"];
const OUTCOMES = ["Users with a later outcome", "Mean outcome", "95 % interval", "Users without"];
const HEALTH = ["Failed", "Errors", "Slow", "Left early", "Median, ms", "99th percentile, ms"];
const ITSELF = { local: "the server itself", onnx: "the server itself, by onnxruntime" }; // else a worker
const FINDINGS = { undecided: "not yet", better: "yes: it is better", worse: "yes: it is worse" }; // of an experiment
const GOOD = ["succeeded", "healthy", "pass", "training", "ended"];
const BAD = ["rolling_back", "rolled_back", "aborted", "down", "fail", "stopped"];

/** Shows who plays each game. */
export function showDeployments(place, deployments) {
  const tables = deployments.map((one) => variantsTable(one.variants, `${titled(one.game)}: who plays it`));
  renew(place, element("div", tables, { id: place.id }));
}

/** Shows the workers that compute the forward passes, and the versions that each has loaded. */
export function showReplicas(place, replicas) {
  const rows = replicas.map((one) => [
    ITSELF[one.name] ?? one.name,
    badge(one.healthy ? "healthy" : "down"),
    one.versions.join(", ") || "none",
  ]);
  const workers = table("Workers, which compute the decisions", ["Name", "State", "Versions"], rows);
  renew(place, element("div", workers, { id: place.id }));
}

/**
 * Shows all rollouts, the newest first.
 *
 * `champions` are the versions by game, and `order(number, what, body, question)` carries out a button.
 */
export function showRollouts(place, rollouts, champions, order) {
  const cards = rollouts.map((one) => rolloutCard(one, ordersOf(one, champions), order));
  const ids = new Set(cards.map((card) => card.id));
  for (const old of [...place.children]) if (!ids.has(old.id)) old.remove();
  for (const card of cards) {
    const old = document.getElementById(card.id);
    if (old) renew(old, card);
    else place.prepend(card);
  }
  if (!cards.length) place.append(element("p", "There was none yet.", { class: "soft" }));
}

/** The orders that a rollout can be given now. Those that end it ask a question first. */
function ordersOf({ id, game, state, strategy, version, champion, shadow }, champions) {
  const orders = {
    pause: { name: "Pause" },
    resume: { name: "Resume" },
    abort: { name: "Abort", question: `Abort rollout ${id}? Version ${champion} plays all new games.` },
    undo: { name: "Undo", question: `Undo rollout ${id}? Version ${champion} becomes the champion again.` },
    candidate: decision("candidate", id, version),
    champion: decision("champion", id, champion),
  };
  const decided = ["candidate", "champion"];
  const isDecided = strategy === "ab" || shadow !== null; // it never ends by itself
  const possible = {
    preparing: ["abort"],
    progressing: ["pause", ...(isDecided ? decided : []), "abort"],
    paused: ["resume", ...decided, "abort"],
    succeeded: champions[game] === version ? ["undo"] : [],
  };
  return (possible[state] ?? []).map((key) => ({ what: key, body: {}, ...orders[key] }));
}

function decision(winner, id, version) {
  return {
    what: "decide",
    body: { winner },
    name: `Decide for the ${winner}`,
    question: `Decide rollout ${id} for the ${winner}? Version ${version} plays all new games.`,
  };
}

function rolloutCard(one, orders, order) {
  const title = `Rollout ${one.id}: ${one.strategy} of version ${one.version} in ${titled(one.game)}`;
  const step = ` step ${one.step + 1} of ${one.steps}, begun by ${one.opened_by}`;
  const buttons = orders.map(({ what, body, name, question }) => {
    const button = element("button", name, { type: "button", "aria-label": `${name}, rollout ${one.id}` });
    // The second click of a double click would meet the next button, such as Resume after Pause.
    button.onclick = (event) => event.detail < 2 && order(one.id, what, body, question);
    return button;
  });
  return element("article", [
    element("h3", title),
    element("p", [badge(one.state), step]),
    element("p", one.note ?? ""),
    facts(one.shadow ? shadowFacts(one.shadow) : pairFacts(one)),
    one.history.length > 1 ? eValues(one) : element("figure"),
    variantsTable(one.variants, `Variants of rollout ${one.id}`),
    element("p", buttons, { class: "row" }),
  ], { class: "card", id: `rollout-${one.id}` });
}

/** A state or an outcome, in its colour. */
export function badge(state) {
  const kind = GOOD.includes(state) ? "good" : BAD.includes(state) ? "bad" : "open";
  return element("strong", state.replaceAll("_", " "), { class: `badge ${kind}` });
}

function pairFacts(one) {
  return {
    ...(one.finding ? { "Enough data": FINDINGS[one.finding] } : {}),
    "Won, tied, lost": `${one.wins}, ${one.ties}, ${one.losses}`,
    "E-value: it is better": `${figure(one.e_value)} of ${figure(one.bound, 0)}`,
    "E-value: it is worse": `${figure(one.e_value_worse)} of ${figure(one.bound_worse, 0)}`,
    "Games it touched": one.touched,
    ...(one.mixed ? { "Games handed over, which do not count": one.mixed } : {}),
    ...(one.untwinned ? { "Games without a twin": one.untwinned } : {}),
  };
}

/** A shadow has no games, so nothing can be said of wins. */
function shadowFacts({ compared, agreed, failed, dropped, slow, mean_seconds: seconds, mean_gap: gap, mean_regret: regret }) {
  return {
    "Same action": `${agreed} of ${compared}`,
    "Failed": failed,
    "Not seen": dropped,
    "Slow": slow,
    ...(compared ? { "Mean time": `${milliseconds(seconds)} ms`, "Gap of values": figure(gap, 3), "Regret": figure(regret, 3) } : {}),
  };
}

function facts(named) {
  const pairs = Object.entries(named).map(([name, value]) =>
    element("div", [element("dt", name), element("dd", String(value))]));
  return element("dl", pairs, { class: "facts" });
}

/** Both e-values after each pair, on one logarithmic scale, with the bounds where they decide. */
function eValues({ id, history, history_worse: worse, bound, bound_worse: alarm, finding }) {
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
  const [passes, fails] = finding ? ["it is", "it is"] : ["it may pass", "it is rolled back"];
  const caption =
    `After each of ${history.length - 1} pairs, on a logarithmic scale from ${short(10 ** low)} to ${short(10 ** high)}: ` +
    `evidence that it is better (solid; from ${figure(bound, 0)} on ${passes}) and that it is worse (dashed; from ` +
    `${figure(alarm, 0)} on ${fails}).${finding ? " The test ends nothing: a person decides." : ""}`;
  return element("figure", [drawing, element("figcaption", caption, { class: "soft" })]);
}

function short(value) {
  return value >= 0.01 && value < 1e6 ? figure(value, value < 10 ? 2 : 0) : value.toExponential(0);
}

function variantsTable(variants, caption) {
  const all = variants.flatMap((one) => one.scores);
  const range = all.length ? [Math.min(0, ...all), Math.max(...all)] : null;
  const games = GAMES.map((name) =>
    name === "Scores" && range ? `Scores, ${range.map((one) => figure(one, 0)).join(" to ")}` : name);
  const reported = variants.some((one) => one.outcomes);
  const rows = variants.map((one) => [
    one.role, one.version, `${figure(100 * one.share, 0)} %`, one.sessions, one.games,
    one.mean === null ? "–" : figure(one.mean, 1),
    range ? strip(one, range) : "–",
    ...(reported ? outcomeCells(one.outcomes) : []),
    one.failed, one.errors, one.slow, one.abandoned,
    ...(one.latency ? [one.latency.median_seconds, one.latency.p99_seconds].map(milliseconds) : ["–", "–"]),
  ]);
  return table(caption, [...games, ...(reported ? OUTCOMES : []), ...HEALTH], rows);
}

/** What was reported of a variant's users later. */
function outcomeCells(told) {
  if (!told) return OUTCOMES.map(() => "–");
  const { n, mean, low, high, missing } = told;
  return [n, mean === null ? "–" : precise(mean), low === null ? "–" : `${precise(low)} to ${precise(high)}`, missing];
}

/** A number of any size, such as an outcome, with four digits. */
function precise(value) {
  const text = value.toLocaleString("en", { maximumSignificantDigits: 4 });
  return (text.length > 10 ? value.toExponential(3) : text).replace("-", "−");
}

/** A table that scrolls sideways by itself; the first cell of each row names it. */
export function table(caption, columns, rows) {
  const head = columns.map((name) => element("th", name, { scope: "col" }));
  const body = rows.map(([name, ...rest]) =>
    element("tr", [element("th", name, { scope: "row" }), ...rest.map((one) => element("td", one instanceof Node ? one : String(one)))]));
  const made = element("table", [element("caption", caption), element("thead", element("tr", head)), element("tbody", body)]);
  return element("div", made, { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" });
}

function milliseconds(seconds) {
  return figure(1000 * seconds, 1);
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
