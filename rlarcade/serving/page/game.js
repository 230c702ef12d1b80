// One game: begins it, talks with the server over its WebSocket, and draws its panel.

import { ask, element, figure, titled } from "./common.js";

const SHOWN_STEPS = 240; // of the largest Q-value
const ATTEMPTS = 30; // to reach a server that was lost, one a second

export class Game {
  static word = "version"; // what the number of an agent is called; "step" for checkpoints of a run

  /** Begins a game at the server. Nothing is shown or played before `connect`. */
  static async begin(asked) {
    return new Game(await ask("/v1/watch", { method: "POST", body: asked }));
  }

  constructor(told) {
    this.told = told;
    this.human = told.mode === "human";
    this.moment = null;
    this.newest = null; // with its picture
    this.over = false; // it has ended, or was left, or the server refused
    this.attempts = 0;
    this.maxima = []; // the largest Q-value of each step
    this.range = [0, 0]; // of all Q-values so far; it only grows
    this.onend = () => {};
    this.panel = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.part = (name) => this.panel.querySelector(name);
    this.prepare();
  }

  get name() {
    return this.human ? "You" : `${Game.word === "step" ? "Step" : "Version"} ${this.told.version}`;
  }

  /** Fills the parts of the panel that do not change. */
  prepare() {
    const { game, seed, version, simulations, action_names: names, protocol } = this.told;
    this.panel.classList.add(this.human ? "of-person" : "of-agent");
    const ahead = simulations ? ", looking ahead" : "";
    this.part("h3").textContent = this.human ? `${titled(game)}: you` : `${titled(game)}: ${Game.word} ${numbered(version)}${ahead}`;
    this.part(".screen").setAttribute("aria-label", `Screen of ${titled(game)}`);
    this.part(".version").textContent = this.human ? "you" : numbered(version);
    this.part(".sees").textContent = simulations ? `emulator (${simulations} simulations)` : "screen";
    this.part(".seed").textContent = seed;
    const link = new URLSearchParams({ game, seed, ...(this.human ? {} : { version }), ...(simulations ? { simulations } : {}) });
    this.part(".link").href = `/?${link}`;
    this.part(".sticky").textContent = sticky(protocol.sticky);
    const longest = Math.max(...names.map((name) => name.length));
    this.part(".name").style.width = `${0.75 * longest}em`; // they are written in capitals
    this.rows = names.map((name) => {
      const bar = element("span", "", { class: "bar" });
      const zero = element("span", "", { class: "zero" });
      const [value, mark] = [element("td", "", { class: "value" }), element("td", "", { class: "mark" })];
      const track = element("div", [bar, zero], { class: "track" });
      const row = element("tr", [element("th", name, { scope: "row" }), element("td", track), value, mark]);
      this.part("tbody").append(row);
      return { row, bar, zero, value, mark };
    });
  }

  /** Watches the game, with orders such as {pause: true, speed: 30}. */
  connect(orders) {
    this.orders = orders;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/watch/${this.told.id}/ws`);
    this.socket.onopen = () => this.send({ token: this.told.token, ...this.orders });
    this.socket.onmessage = (message) => this.take(message.data);
    this.socket.onclose = () => this.lost();
  }

  /** Gives orders; pause and speed also hold when the connection is made again. */
  order(orders) {
    const { step, ...lasting } = orders;
    this.orders = { ...this.orders, ...lasting, ...(step ? { pause: true } : {}) };
    this.send(orders);
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** Takes a moment, its picture, or an error. */
  take(data) {
    if (typeof data !== "string") {
      this.newest = [this.moment, data];
      if (!this.waiting) requestAnimationFrame(() => this.draw());
      this.waiting = true;
      return;
    }
    const told = JSON.parse(data);
    if (told.error !== undefined) {
      this.over = true;
      this.say(told.error);
      return;
    }
    if (this.attempts > 0) this.say(""); // not in draw(): a picture of the lost connection may still be drawn
    this.attempts = 0;
    if (told.q_values && told.step > (this.moment?.step ?? 0)) this.maxima.push(Math.max(...told.q_values));
    this.moment = told;
  }

  lost() {
    if (this.over || this.moment?.ended) return;
    if ((this.attempts += 1) > ATTEMPTS) {
      this.say("The server was lost.");
      return;
    }
    this.say("The connection was lost. It is made again …");
    setTimeout(() => this.over || this.connect(this.orders), 1000);
  }

  /** Leaves the game. */
  leave() {
    const playing = !this.over;
    this.over = true;
    this.socket?.close();
    this.panel.remove();
    const headers = { "X-Session-Token": this.told.token };
    if (playing) ask(`/v1/watch/${this.told.id}`, { method: "DELETE", headers }).catch(() => {});
  }

  say(text) {
    this.part(".state").textContent = text;
  }

  // Drawing: at most once for each picture of the screen, and everything of one moment together

  async draw() {
    this.waiting = false;
    const [moment, picture] = this.newest;
    const bitmap = await createImageBitmap(new Blob([picture], { type: "image/png" }));
    this.part(".screen").getContext("2d").drawImage(bitmap, 0, 0);
    this.part(".score").textContent = moment.score.toLocaleString("en");
    this.part(".lives").textContent = moment.lives;
    if (!this.human) this.part(".version").textContent = numbered(moment.version); // another one may take over
    this.part(".steps").textContent = moment.step.toLocaleString("en");
    if (moment.q_values) {
      this.drawValues(moment);
      this.drawTrend();
    }
    this.panel.dataset.step = moment.step;
    if (moment.ended) this.end(moment);
  }

  end(moment) {
    if (this.over) return;
    this.over = true;
    const how = moment.ended === "terminated" ? "Game over" : "Cut at the longest time";
    this.say(`${how}: ${moment.score.toLocaleString("en")} points in ${moment.step.toLocaleString("en")} steps.`);
    this.onend(this);
  }

  drawValues({ q_values: values, action, explored }) {
    this.range = [Math.min(this.range[0], ...values), Math.max(this.range[1], ...values)];
    const [low, high] = this.range;
    const digits = high - low < 1 ? 3 : 2;
    const share = (value) => (100 * value) / (high - low || 1);
    this.rows.forEach(({ row, bar, zero, value, mark }, index) => {
      const chosen = index === action;
      bar.style.left = `${share(Math.min(values[index], 0) - low)}%`;
      bar.style.width = `${share(Math.abs(values[index]))}%`;
      zero.style.left = `${share(-low)}%`;
      value.textContent = figure(values[index], digits);
      mark.textContent = chosen ? (explored ? "◀ random" : "◀ chosen") : "";
      row.className = chosen ? (explored ? "chosen random" : "chosen") : "";
    });
    this.part("caption").textContent =
      `Q-values: the reward that the agent expected before this step. All bars begin at 0; the scale, ` +
      `${figure(low, digits)} to ${figure(high, digits)}, only grows.`;
  }

  drawTrend() {
    this.maxima.splice(0, this.maxima.length - SHOWN_STEPS);
    const [low, high] = [Math.min(...this.maxima), Math.max(...this.maxima)];
    const height = (value) => 38 - (36 * (value - low)) / (high - low || 1);
    const points = this.maxima.map((value, index) => `${index},${height(value).toFixed(1)}`);
    this.part("polyline").setAttribute("points", points.join(" "));
    this.part("figcaption").textContent =
      `Largest Q-value of the last ${this.maxima.length} steps: from ${figure(low, 3)} to ${figure(high, 3)}`;
  }
}

/** A version's number, or an agent step with its separators. */
function numbered(version) {
  return Game.word === "step" ? version.toLocaleString("en") : version;
}

function sticky(probability) {
  if (!probability) return "Every key is obeyed in every frame: this protocol has no sticky actions.";
  return (
    `Sticky actions: in each frame the emulator repeats the action before with probability ${probability}, ` +
    "whatever is pressed. Without that, an agent could learn a game by heart. You play under the same rule, " +
    "with 15 decisions a second, so the game may seem slow to obey."
  );
}
