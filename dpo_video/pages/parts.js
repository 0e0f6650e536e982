"use strict";
// Parts of the report's gallery and of the review page. Texts of a run become text nodes only:
// nothing in a caption or an answer is ever read as markup.

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width_share") element.style.width = `${Math.round(value * 100)}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
};

const shown = (number, digits = 2) =>
  number === null || number === undefined ? "-" : Number(number).toFixed(digits);

const words = (text) => text.split(/(\s+)/).filter((word) => word !== "");
const bare = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
const MOST_CELLS = 250000; // of the table below: a longer answer is shown without its differences

// Which words of each text are not in the longest run of words that both have in the same order.
const wordDifference = (first, second) => {
  const texts = [words(first), words(second)];
  const places = texts.map((list) => list.map((_, place) => place).filter((place) => bare(list[place])));
  const keys = texts.map((list, side) => places[side].map((place) => bare(list[place])));
  const differing = [new Set(places[0]), new Set(places[1])];
  const [height, width] = [keys[0].length, keys[1].length];
  if (height * width > MOST_CELLS) return [new Set(), new Set()];
  const longest = Array.from({ length: height + 1 }, () => new Uint16Array(width + 1));
  for (let row = height - 1; row >= 0; row--) {
    for (let column = width - 1; column >= 0; column--) {
      longest[row][column] =
        keys[0][row] === keys[1][column]
          ? longest[row + 1][column + 1] + 1
          : Math.max(longest[row + 1][column], longest[row][column + 1]);
    }
  }
  let [row, column] = [0, 0];
  while (row < height && column < width) {
    if (keys[0][row] === keys[1][column]) {
      differing[0].delete(places[0][row++]);
      differing[1].delete(places[1][column++]);
    } else if (longest[row + 1][column] >= longest[row][column + 1]) row++;
    else column++;
  }
  return differing;
};

// The turns of a conversation that a question goes on from.
const turnsBefore = (turns) =>
  (turns || []).length
    ? make(
        "div",
        { class: "turns", role: "group", "aria-label": "Earlier turns" },
        ...turns.flatMap((turn) => [
          make("p", { dir: "auto", class: "turn-question" }, turn.question),
          make("p", { dir: "auto", class: "turn-answer" }, turn.answer),
        ]),
      )
    : "";

// Where claims stand in a text word for word, as [begin, end, kind].
const claimPlaces = (text, claims) => {
  const places = [];
  for (const claim of claims || []) {
    const begin = text.toLowerCase().indexOf(claim.text.toLowerCase());
    if (claim.text && begin >= 0) places.push([begin, begin + claim.text.length, claim.kind]);
  }
  return places;
};

const answerText = (answer, differing) => {
  const paragraph = make("p", { class: "answer-text", dir: "auto" });
  const places = claimPlaces(answer.text, answer.claims);
  let at = 0;
  let run = null;
  words(answer.text).forEach((word, index) => {
    const middle = at + word.length / 2;
    const place = places.find(([begin, end]) => middle >= begin && middle < end);
    const isSpace = /^\s+$/.test(word);
    const names = [place ? place[2] : "", differing && differing.has(index) ? "differs" : ""];
    const name = names.filter(Boolean).join(" ");
    at += word.length;
    if (run && (run.name === name || (isSpace && run.name === name))) run.text += word;
    else {
      if (run) paragraph.append(run.name ? make("span", { class: run.name }, run.text) : run.text);
      run = { name, text: word };
    }
  });
  if (run) paragraph.append(run.name ? make("span", { class: run.name }, run.text) : run.text);
  if (!answer.text.trim()) paragraph.append(make("em", {}, "(empty)"));
  return paragraph;
};

const SIGNS = { supported: "\u2713", contradicted: "\u2717", absent: "?" };

const claimList = (claims) =>
  make(
    "ul",
    { class: "claims" },
    ...claims.map((claim) =>
      make(
        "li",
        { class: claim.kind },
        make("span", { class: "sign", "aria-hidden": "true" }, SIGNS[claim.kind] || "?"),
        make("span", { dir: "auto" }, claim.text),
        make("span", { class: "meaning" }, ` ${claim.meaning}`),
      ),
    ),
  );

const distributionBars = (distribution) => {
  const named = distribution.filter(([, chance]) => chance >= 0.01);
  return make(
    "table",
    { class: "distribution" },
    make("caption", { class: "hidden" }, "Probability of each score"),
    ...named.map(([label, chance]) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, label),
        make("td", { class: "track" }, make("span", { class: "fill", width_share: Math.min(1, chance) })),
        make("td", { class: "number" }, `${(100 * chance).toFixed(0)} %`),
      ),
    ),
  );
};

const judgeSays = (answer) => {
  const parts = [];
  if (answer.claims) parts.push(claimList(answer.claims));
  if (answer.distribution) parts.push(distributionBars(answer.distribution));
  if (answer.reason) parts.push(make("p", { class: "quiet reason", dir: "auto" }, answer.reason));
  return parts;
};

const clipNote = (clip) => `, ${clip.sound ? "with sound" : "no sound"}${clip.note ? `; ${clip.note}` : ""}`;

// A clip as a strip of frames, and a video that loads when it is asked for.
const clipBox = (clip, folder, label) => {
  if (!clip) return make("p", { class: "quiet" }, "No pictures were made of this clip (report --clips N makes more).");
  if (clip.error) return make("p", { class: "quiet no-clip" }, `This clip cannot be shown: ${clip.error}`);
  const strip = make("img", {
    src: folder + clip.strip, loading: "lazy", decoding: "async", alt: `Six frames of ${label}`, class: "strip", height: 90,
    width: Math.round((6 * 90 * clip.width) / clip.height),
  });
  if (!clip.video) return make("div", { class: "clip" }, strip);
  const video = make("video", {
    src: folder + clip.video, poster: folder + clip.poster, preload: "none", controls: true, loop: true, playsinline: true,
    width: clip.width, height: clip.height, "aria-label": `Clip ${label}`,
  });
  video.addEventListener("error", () => video.replaceWith(make("p", { class: "quiet no-clip" }, "This browser cannot play the clip.")));
  return make("div", { class: "clip" }, video, strip, make("p", { class: "quiet" }, `${shown(clip.seconds, 1)} s${clipNote(clip)}`));
};
