// Versions that passed the gate and wait for a person: what the gate found, and the person's answer.

import { element, renew, titled } from "./common.js";
import { badge, table } from "./rollouts.js";

const WAYS = { "": "at once", canary: "by a canary", "big-bang": "by a big bang", ab: "by an A/B experiment" };

/** Shows the versions that wait. `answer(version, said)` carries out a button. */
export function showApprovals(place, waiting, answer) {
  const cards = waiting.map((one) => approvalCard(one, answer));
  renew(place, element("div", cards, { id: place.id }));
}

function approvalCard(one, answer) {
  const id = `approval-${one.version}`;
  const title = `Version ${one.version} of ${titled(one.game)} waits for approval`;
  const against = one.champion === null ? "The game has no champion." : `It would replace version ${one.champion}.`;
  const people = one.approved_by.length ? ` Approved by ${one.approved_by.join(", ")}; it needs ${one.required}.` : "";
  const checks = one.checks.map(({ name, outcome, evidence }) => [name, badge(outcome), evidence]);
  const reason = element("input", "", { id: `${id}-reason`, maxlength: "1000", size: "24" });
  const way = element("select", Object.entries(WAYS).map(([value, name]) => element("option", name, { value })), { id: `${id}-way` });
  const button = (name, decision) => {
    const made = element("button", name, { type: "button", "aria-label": `${name} version ${one.version}` });
    made.onclick = (event) => event.detail < 2 && answer(one.version, decision, said(id));
    return made;
  };
  return element("article", [
    element("h3", title),
    element("p", `${against} Submitted by ${one.opened_by}.${people}`),
    element("p", one.trouble ?? ""),
    table(`What the gate found about version ${one.version}`, ["Check", "Outcome", "Evidence"], checks),
    element("p", [
      element("label", ["Reason ", reason]),
      ...(one.trouble ? [] : [element("label", ["It takes over ", way]), button("Approve", "approve")]),
      button("Deny", "deny"),
    ], { class: "row" }),
  ], { class: "card", id });
}

/** What the person has chosen: read when a button is pressed, since the card may have been made anew. */
function said(id) {
  const strategy = document.getElementById(`${id}-way`)?.value;
  return {
    note: document.getElementById(`${id}-reason`).value.trim(),
    ...(strategy ? { rollout: { strategy } } : {}),
  };
}
