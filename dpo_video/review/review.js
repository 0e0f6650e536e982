"use strict";
// The review page: one pair after the other, voted on by keys. What the judge says is fetched with
// the vote, so it is not in the page before.

const get = (id) => document.getElementById(id);
const annotator = document.body.dataset.annotator;
const address = (path) => `${path}?annotator=${encodeURIComponent(annotator)}`;

let pair = null; // what is shown
let state = "waiting"; // for the server; or voting, revealed, done
const enter = (next) => { state = next; document.body.dataset.state = next; };
let shownAt = 0;
let watched = 0;
let frame = 1 / 25;

const ask = async (path, content) => {
  const options = content === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) };
  const response = await fetch(address(path), options);
  const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
};

const showFault = (error) => {
  const fault = get("fault");
  fault.hidden = !error;
  fault.textContent = error ? (error instanceof TypeError ? "The server does not answer: is dpo-video review still running? Your votes up to here are stored." : error.message) : "";
};

const showProgress = (progress) => {
  const parts = [`${progress.voted.toLocaleString("en")} of ${progress.pairs.toLocaleString("en")} pairs voted on`, `${progress.yours} ${progress.yours === 1 ? "vote" : "votes"} of yours`];
  if (progress.minutes !== null) parts.push(progress.minutes < 1 ? `${Math.round(60 * progress.minutes)} s a vote` : `${progress.minutes} minutes a vote`);
  if (progress.self.of) parts.push(`the same as before ${progress.self.same} of ${progress.self.of}`);
  if (progress.mutual.of) parts.push(`the same as others ${progress.mutual.same} of ${progress.mutual.of}`);
  get("progress").textContent = parts.join(" \u00b7 ");
};

const video = () => get("clip").querySelector("video");

const noClip = (why) => {
  get("clip").replaceChildren(make("p", { class: "quiet no-clip" }, `This clip cannot be shown: ${why}. Skip the pair, or vote if the question does not need it.`));
  get("player").hidden = true;
};

const showClip = async (name) => {
  const current = pair;
  get("player").hidden = true;
  get("clip").replaceChildren(make("p", { class: "quiet" }, "The clip is being prepared."));
  const row = await ask(`clips/${name}.json`).catch((error) => ({ error: error.message }));
  if (pair !== current) return;
  if (row.error || !row.video) return noClip(row.error || "there is no video of it");
  frame = 1 / (row.fps || 25);
  const element = make("video", { src: `clips/${row.video}`, poster: `clips/${row.poster}`, playsinline: true, controls: true, preload: "auto", width: row.width, height: row.height, "aria-label": "The clip that the question is about" });
  element.muted = !row.sound || !get("sound").checked;
  get("sound").closest("label").hidden = !row.sound;
  element.loop = get("loop").checked;
  let last = 0;
  element.addEventListener("timeupdate", () => {
    const step = element.currentTime - last;
    if (!element.paused && step > 0 && step < 1.5) watched += step;
    last = element.currentTime;
    get("time").textContent = `${shown(element.currentTime)} of ${shown(row.seconds)} s${clipNote(row)}`;
  });
  element.addEventListener("error", () => noClip("this browser cannot play it"));
  get("clip").replaceChildren(element);
  get("player").hidden = false;
  element.playbackRate = Number(get("speed").value);
  element.play().catch(() => {}); // a browser may want a click first: sound begins unasked nowhere
};

const blindAnswer = (letter, text) => make("div", { class: "answer", "data-letter": letter }, make("h4", {}, letter), answerText({ text }, null));

const showPair = (next) => {
  pair = next;
  get("revealed").hidden = true;
  get("voting").hidden = !pair;
  document.querySelectorAll("input[name=reason]").forEach((box) => { box.checked = false; });
  if (!pair) {
    enter("done");
    get("clip").replaceChildren();
    get("player").hidden = true;
    get("before").replaceChildren();
    get("question").textContent = "Nothing is left to vote on.";
    get("answers").replaceChildren();
    return;
  }
  get("before").replaceChildren(turnsBefore(pair.before));
  get("question").textContent = pair.prompt;
  get("answers").replaceChildren(...pair.answers.map((text, side) => blindAnswer("AB"[side], text)));
  watched = 0;
  shownAt = performance.now();
  enter("voting");
  showClip(pair.clip);
};

const showNext = async () => {
  enter("waiting");
  try {
    const answer = await ask("next");
    showProgress(answer.progress);
    showPair(answer.pair);
    showFault(null);
  } catch (error) { enter("revealed"); showFault(error); }
};

const WORDS = { A: "You prefer A.", B: "You prefer B.", tie: "You call it a tie.", both_bad: "You call both bad.", skip: "You skipped it." };

const reveal = (choice, revealed) => {
  const differing = wordDifference(revealed.answers[0].text, revealed.answers[1].text);
  get("answers").replaceChildren(
    ...revealed.answers.map((answer, side) =>
      make("div", { class: choice === "AB"[side] ? "answer voted" : "answer" },
        make("h4", {}, "AB"[side], make("span", { class: "score" }, answer.score === undefined ? "" : answer.score === null ? "unscored" : `score ${shown(answer.score)}`)),
        answerText(answer, differing[side]), ...judgeSays(answer)),
    ),
  );
  const judge = revealed.judge_prefers ? `The judge prefers ${revealed.judge_prefers}` : "The judge prefers neither";
  const doubt = revealed.doubt === null ? "" : `, with a doubt of ${(100 * revealed.doubt).toFixed(0)} %`;
  get("said").textContent = `${WORDS[choice]} ${judge}${doubt}.`;
  get("gold").textContent = revealed.gold ? `Gold answer: ${revealed.gold}` : "";
  get("caption").hidden = !revealed.caption;
  get("caption").querySelector("p").textContent = revealed.caption || "";
  get("voting").hidden = true;
  get("revealed").hidden = false;
  enter("revealed");
  get("next").focus({ preventScroll: true });
};

const vote = async (choice) => {
  if (state !== "voting") return;
  enter("waiting");
  const reasons = [...document.querySelectorAll("input[name=reason]:checked")].map((box) => box.value);
  const content = { pair: pair.pair, repeat: pair.repeat, choice, reasons, seconds: (performance.now() - shownAt) / 1000, watched };
  try {
    const answer = await ask("vote", content);
    showFault(null);
    showProgress(answer.progress);
    if (choice === "skip" || get("straight-on").checked) await showNext();
    else reveal(choice, answer.revealed);
  } catch (error) { enter("voting"); showFault(error); }
};

const undo = async () => {
  if (state === "waiting") return;
  const before = state;
  enter("waiting");
  try {
    const answer = await ask("undo", {});
    showFault(null);
    showProgress(answer.progress);
    if (answer.pair) showPair(answer.pair);
    else await showNext();
  } catch (error) { enter(before); showFault(error); }
};

const step = (by) => {
  const element = video();
  if (!element) return;
  element.pause();
  element.currentTime = Math.min(Math.max(0, element.currentTime + by * frame), element.duration || 0);
};
const toggle = () => { const element = video(); if (element) element.paused ? element.play().catch(() => {}) : element.pause(); };
const toggleSound = () => { if (!get("sound").closest("label").hidden) get("sound").click(); };
const setSpeed = (by) => {
  const select = get("speed");
  select.selectedIndex = Math.min(Math.max(0, select.selectedIndex + by), select.options.length - 1);
  if (video()) video().playbackRate = Number(select.value);
};

const KEYS = {
  1: () => vote("A"), 2: () => vote("B"), 3: () => vote("tie"), 0: () => vote("both_bad"), s: () => vote("skip"), u: undo,
  v: toggleSound, Enter: () => { if (state === "revealed") showNext(); }, " ": toggle, ",": () => step(-1), ".": () => step(1), "-": () => setSpeed(-1), "+": () => setSpeed(1),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && "1230su".includes(event.key)) return;
  const name = event.target.tagName;
  if (["SELECT", "TEXTAREA"].includes(name) || (name === "INPUT" && event.target.type !== "checkbox")) return;
  if (event.key === " " && name !== "BODY" && name !== "VIDEO") return; // a chip or a button that has the focus
  if (event.key === "Enter" && name === "BUTTON" && event.target.id !== "next") return;
  const chip = document.querySelector(`input[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (chip && state === "voting") { event.preventDefault(); chip.checked = !chip.checked; return; }
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
}, true);

document.querySelectorAll("[data-choice]").forEach((button) => button.addEventListener("click", () => vote(button.dataset.choice)));
get("undo").addEventListener("click", undo);
get("undo-after").addEventListener("click", undo);
get("next").addEventListener("click", showNext);
get("play").addEventListener("click", toggle);
get("back").addEventListener("click", () => step(-1));
get("forward").addEventListener("click", () => step(1));
get("loop").addEventListener("change", () => { if (video()) video().loop = get("loop").checked; });
get("sound").addEventListener("change", () => { if (video()) video().muted = !get("sound").checked; });
get("speed").addEventListener("change", () => setSpeed(0));
showNext();
