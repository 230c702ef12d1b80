// The keyboard of a person's game, and its recording.

import { ask, element } from "./common.js";

const KEYS = {
  ArrowUp: "UP", KeyW: "UP", ArrowDown: "DOWN", KeyS: "DOWN",
  ArrowLeft: "LEFT", KeyA: "LEFT", ArrowRight: "RIGHT", KeyD: "RIGHT", Space: "FIRE",
};
const SIGNS = { UP: "↑", DOWN: "↓", LEFT: "←", RIGHT: "→", FIRE: "Space" };

/** The index of the action that the pressed directions mean, or of the nearest that the game has. */
export function actionOf(pressed, names) {
  const one = (a, b) => (pressed.has(a) === pressed.has(b) ? "" : pressed.has(a) ? a : b);
  const [vertical, horizontal] = [one("UP", "DOWN"), one("LEFT", "RIGHT")];
  const ways = [vertical + horizontal, horizontal, vertical];
  if (pressed.has("FIRE")) ways.unshift(...ways.map((way) => `${way}FIRE`), "FIRE");
  const found = ways.find((way) => names.includes(way));
  return Math.max(0, names.indexOf(found ?? "NOOP"));
}

/** Sends the keys that are held to a person's game. */
export class Keyboard {
  constructor(game) {
    this.game = game;
    this.pressed = new Set();
    this.action = 0;
    const used = Object.keys(SIGNS).filter((name) => game.told.action_names.some((one) => one.includes(name)));
    this.signs = new Map(used.map((name) => [name, element("kbd", SIGNS[name])]));
    game.part(".keys").replaceChildren("Your keys: ", ...[...this.signs.values()].flatMap((sign) => [sign, " "]));
  }

  /** Takes a key; returns whether it is one of the game's. */
  key(event, down) {
    const name = KEYS[event.code];
    if (name === undefined) return false;
    if (down) this.pressed.add(name);
    else this.pressed.delete(name);
    this.tell();
    return true;
  }

  /** Lets all keys go, since another window has the keyboard now. */
  release() {
    this.pressed.clear();
    this.tell();
  }

  tell() {
    for (const [name, sign] of this.signs) sign.classList.toggle("down", this.pressed.has(name));
    const action = actionOf(this.pressed, this.game.told.action_names);
    if (action !== this.action) this.game.order({ action });
    this.action = action;
  }
}

/** Adds a link to the recording of a person's game that has ended. */
export async function addRecording(game) {
  const headers = { "X-Session-Token": game.told.token };
  const document = await ask(`/v1/watch/${game.told.id}/recording`, { headers });
  const file = new Blob([JSON.stringify(document)], { type: "application/json" });
  const name = `${game.told.game}-${game.told.seed}.json`;
  const link = element("a", "Save the recording", { href: URL.createObjectURL(file), download: name, class: "recording" });
  const how = element("code", `rlarcade watch ${name} --verify`);
  game.part(".links").append(" · ", link, ": ", how, " confirms every point.");
}

/** Says who won. */
export function result(person, agent) {
  const [yours, its] = [person.moment.score, agent.moment.score];
  const who = yours > its ? "You won" : yours < its ? "The agent won" : "A tie";
  return `${who}: you ${yours.toLocaleString("en")}, ${agent.name.toLowerCase()} ${its.toLocaleString("en")}.`;
}
