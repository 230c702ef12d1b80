// The page: chooses games, steers all of them together, and asks for rollouts again and again.

import { showApprovals } from "./approvals.js";
import { ask, element, titled } from "./common.js";
import { Game } from "./game.js";
import { Keyboard, addRecording, result } from "./play.js";
import { showDeployments, showReplicas, showRollouts } from "./rollouts.js";
import { showRun } from "./run.js";

const PERIOD = 2000; // milliseconds between two looks at the rollouts
const MOST_GAMES = 6;
const MOST_ROLLOUTS = 20; // shown, the newest ones
const BETWEEN_GAMES = 3000; // milliseconds, to read the score
const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches;
const WATCH_HINT = "Keys: Space pauses, → steps, + and − change the speed.";
const PLAY_HINT = "Keys: Enter begins, P pauses; arrows (or W A S D) move, Space fires.";

const at = (id) => document.getElementById(id);
const state = {
  deployments: [],
  games: [],
  keyboard: null, // of a person's game
  paused: STILL,
  run: null, // the folder of a run that is followed
  expecting: false, // a game begins as soon as the run has a checkpoint
};

function say(text) {
  at("message").textContent = text;
}

/** Runs what a button asks for, and says what went wrong. Until it is done, a second click does nothing. */
function tried(work) {
  let busy = false;
  return async (...given) => {
    if (busy) return;
    busy = true;
    say("");
    try {
      await work(...given);
    } catch (error) {
      say(error.message);
    }
    busy = false;
  };
}

// Choosing

function deployment() {
  return state.deployments.find((one) => one.game === at("game").value);
}

function versionOf(role) {
  return deployment()?.variants.find((one) => one.role === role)?.version;
}

function offerGames() {
  const chosen = at("game").value;
  at("game").replaceChildren(...state.deployments.map((one) => element("option", titled(one.game), { value: one.game })));
  if (state.deployments.some((one) => one.game === chosen)) at("game").value = chosen;
  offerVersions();
}

function offerVersions() {
  const [select, found] = [at("version"), deployment()];
  const chosen = select.value;
  const roles = (found?.variants ?? []).filter((one) => one.role !== "control");
  const options = roles.map((one) => element("option", named(one), { value: one.version }));
  if (found?.rollout) options.push(element("option", "as the rollout chooses (counts)", { value: "" }));
  select.replaceChildren(...options);
  if (options.some((one) => one.value === chosen)) select.value = chosen;
  at("versus").disabled = versionOf("candidate") === undefined;
}

function named({ role, version }) {
  return state.run ? `newest: step ${version.toLocaleString("en")}` : `${role}: version ${version}`;
}

/** What the form asks for; without `ahead`, of a player that sees only the screen. */
function asked(version = at("version").value, ahead = Number(at("ahead").value)) {
  const seed = at("seed").value.trim();
  return {
    game: at("game").value,
    ...(ahead ? { simulations: ahead } : {}),
    ...(seed === "" ? {} : { seed: Number(seed) }),
    ...(version === "" ? {} : { version: String(version) }),
  };
}

// Games

function show(games) {
  for (const game of games) {
    state.games.push(game);
    game.part(".close").onclick = () => remove(game);
    if (state.run && !state.keyboard) game.onend = goOn;
    at("games").append(game.panel);
    game.connect({ pause: state.paused, ...(game.human ? {} : { speed: Number(at("speed").value) }) });
  }
  arranged();
}

function remove(game) {
  state.games = state.games.filter((one) => one !== game);
  if (state.keyboard?.game === game) {
    state.keyboard = null;
    state.paused = STILL;
  }
  game.leave();
  arranged();
}

function clear() {
  while (state.games.length) remove(state.games[0]);
}

/** Brings the buttons, the hint and the address in line with the games. */
function arranged() {
  const first = state.games[0];
  at("games").dataset.count = state.games.length;
  at("pause").textContent = state.paused ? (state.keyboard ? "Start" : "Play") : "Pause";
  at("step").disabled = at("speed").disabled = state.keyboard !== null;
  at("hint").textContent = state.keyboard ? PLAY_HINT : WATCH_HINT;
  if (first) history.replaceState(null, "", first.part(".link").href);
}

const watch = tried(async () => {
  const game = await Game.begin(asked());
  clear();
  show([game]);
});

/** After a game of a run's checkpoint, the newest checkpoint begins the next one. */
function goOn(ended) {
  setTimeout(() => {
    const alone = state.games.length === 1 && state.games[0] === ended;
    if (alone && !state.paused && at("follow").checked) watch();
  }, BETWEEN_GAMES);
}

const beside = tried(async () => {
  if (state.games.length >= MOST_GAMES) throw new Error(`At most ${MOST_GAMES} games fit beside each other.`);
  show([await Game.begin(asked())]);
});

const versus = tried(async () => {
  const champion = await Game.begin(asked(versionOf("champion")));
  const { game, seed, simulations } = champion.told;
  const candidate = await Game.begin({ game, seed, simulations, version: String(versionOf("candidate")) });
  clear();
  show([champion, candidate]);
});

const play = tried(async () => {
  const agent = await Game.begin(asked(at("version").value || versionOf("champion"), 0));
  const { game, seed } = agent.told;
  const person = await Game.begin({ game, seed, mode: "human" });
  clear();
  state.keyboard = new Keyboard(person);
  state.paused = true;
  agent.onend = person.onend = tried(async (ended) => {
    if (ended === person) await addRecording(person);
    if (agent.moment?.ended && person.moment?.ended) say(result(person, agent));
  });
  at("speed").value = "15";
  show([person, agent]);
  at("games").focus();
});

// Steering

function pause(paused) {
  state.paused = paused;
  for (const game of state.games) game.order({ pause: paused });
  if (state.keyboard && !paused) at("games").focus();
  arranged();
}

function step() {
  if (state.keyboard) return;
  state.paused = true;
  for (const game of state.games) game.order({ step: true });
  arranged();
}

function changeSpeed(by) {
  const select = at("speed");
  if (select.disabled) return;
  select.selectedIndex = Math.min(Math.max(select.selectedIndex + by, 0), select.options.length - 1);
  for (const game of state.games) game.order({ speed: Number(select.value) });
}

function pressed(event) {
  const typing = event.target.closest("input, select, .scroll");
  const button = event.target.closest("button, a");
  if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
  const orders = state.keyboard
    ? { Enter: () => pause(false), KeyP: () => pause(!state.paused) }
    : { Space: () => pause(!state.paused), ArrowRight: step };
  const signs = { "+": () => changeSpeed(1), "-": () => changeSpeed(-1) };
  const order = orders[event.code] ?? signs[event.key];
  const clicks = button && (event.code === "Space" || event.code === "Enter");
  if (clicks) return;
  if (order) order();
  if (order || state.keyboard?.key(event, true)) event.preventDefault();
}

/** A training beside the server shall not be slowed down by a game that nobody sees. */
function hide() {
  if (!state.run || state.paused || state.keyboard) return;
  for (const game of state.games) game.order({ pause: document.hidden });
}

document.addEventListener("visibilitychange", hide);
document.addEventListener("keydown", pressed);
document.addEventListener("keyup", (event) => state.keyboard?.key(event, false));
addEventListener("blur", () => state.keyboard?.release());
at("choice").addEventListener("submit", (event) => { event.preventDefault(); watch(); });
at("operator").addEventListener("submit", (event) => event.preventDefault());
at("name").value = sessionStorage.getItem("name") ?? "";
at("name").addEventListener("change", () => sessionStorage.setItem("name", at("name").value));
at("game").addEventListener("change", offerVersions);
at("beside").addEventListener("click", beside);
at("versus").addEventListener("click", versus);
at("play").addEventListener("click", play);
at("pause").addEventListener("click", () => pause(!state.paused));
at("step").addEventListener("click", step);
at("speed").addEventListener("change", () => changeSpeed(0));

// Versions and rollouts

const seen = {};

/** Whether something differs from the last time; if not, it stays on the page as it is. */
function isNew(name, told) {
  const text = JSON.stringify(told);
  const differs = seen[name] !== text;
  seen[name] = text;
  return differs;
}

async function look() {
  const told = await ask("/v1/deployments");
  if (isNew("deployments", told)) showOnline(told);
  if (state.run) showRun(at("run"), await ask("/v1/run"));
  if (state.expecting && state.deployments.length) {
    state.expecting = false;
    watch();
  }
  await lookAtRegistry(told);
}

function showOnline(told) {
  state.deployments = told.deployments;
  state.run = told.run;
  Game.word = told.run ? "step" : "version";
  at("training").hidden = !told.run;
  for (const id of ["versions", "operations", "versus"]) at(id).hidden = Boolean(told.run); // of champions
  const stale = told.stale ? ` Trouble: ${told.stale}` : "";
  const registry = told.registry === null ? "Serving the agents that come with rlarcade." : `Serving the champions of the registry at ${told.registry}.${stale}`;
  at("online").textContent = told.run ? `Following the run in ${told.run}.` : registry;
  const choices = told.deployments.map((one) => [one.game, one.rollout, one.variants.map(({ role, version }) => [role, version])]);
  if (isNew("choices", choices)) offerGames(); // otherwise a list that is open would close
  showDeployments(at("deployments"), told.deployments);
  showReplicas(at("replicas"), told.replicas);
}

/** Shows what the registry knows. While it cannot be used, all of it stays as it is, and the games go on. */
async function lookAtRegistry({ deployments }) {
  const paths = [`/v1/rollouts?newest=${MOST_ROLLOUTS}`, "/v1/approvals"];
  const found = await Promise.all(paths.map((path) => ask(path))).catch((error) => error);
  if (found instanceof Error) {
    at("unknown").textContent = found.message;
    return;
  }
  const [{ rollouts, earlier }, { waiting }] = found;
  at("unknown").textContent = "";
  at("earlier").textContent = earlier ? `There are ${earlier} earlier ones: rlarcade rollout status tells of them.` : "";
  const championOf = ({ variants }) => variants.find((one) => one.role === "champion").version;
  const champions = Object.fromEntries(deployments.map((one) => [one.game, championOf(one)]));
  if (isNew("rollouts", [rollouts, champions])) showRollouts(at("rollouts"), rollouts, champions, order);
  if (isNew("approvals", waiting)) showApprovals(at("approvals"), waiting, answer);
}

/** Carries out an order about a rollout, if the operator says yes to the question that it may have. */
async function order(number, what, more, question) {
  if (question && !confirm(question)) return;
  const name = at("name").value.trim();
  const after = await operate(`/v1/rollouts/${number}/${what}`, { ...more, ...(name ? { actor: name } : {}) });
  if (after) at("ordered").textContent = `Rollout ${number} is ${after.state.replaceAll("_", " ")}.`;
}

/** Approves or denies a version that waits. */
async function answer(version, decision, more) {
  const by = at("name").value.trim();
  if (!by || !more.note) {
    at("ordered").textContent = "An approval or a denial needs your name and a reason.";
    return;
  }
  const after = await operate(`/v1/approvals/${version}`, { decision, by, ...more });
  if (after) at("ordered").textContent = `Version ${version} is ${after.state.replaceAll("_", " ")}.`;
}

/** Sends an operator's order; returns the answer, or says what went wrong. */
async function operate(path, body) {
  try {
    const headers = { Authorization: `Bearer ${at("token").value}` };
    const after = await ask(path, { method: "POST", body, headers });
    await look();
    return after;
  } catch (error) {
    at("ordered").textContent = error.message;
    return null;
  }
}

async function lookAgain() {
  if (!document.hidden) {
    try {
      await look();
    } catch (error) {
      at("online").textContent = `The server cannot be reached: ${error.message}`;
      seen.deployments = null;
    }
  }
  setTimeout(lookAgain, PERIOD);
}

/** Opens the game of the address, or the champion of the first game. */
const open = tried(async () => {
  await look();
  const link = new URLSearchParams(location.search);
  if (state.deployments.some((one) => one.game === link.get("game"))) at("game").value = link.get("game");
  offerVersions();
  at("seed").value = link.get("seed") ?? "";
  const ahead = [...at("ahead").options].find((one) => one.value === link.get("simulations"));
  if (ahead) ahead.selected = true;
  if (!state.deployments.length && state.run) {
    state.expecting = true;
    throw new Error("The run has no checkpoint yet. The first one begins to play by itself.");
  }
  if (!state.deployments.length) throw new Error("No game has a champion yet.");
  const game = await Game.begin(asked(link.get("version") ?? versionOf("champion")));
  show([game]);
  at("version").value = game.told.version;
  if (STILL) say("Paused, since your system asks for little motion. Play shows the game in motion.");
});

arranged();
open();
setTimeout(lookAgain, PERIOD);
