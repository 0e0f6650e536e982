// The gallery of a report: rows of pairs, answers and drops, filtered, sorted and shown a page at a
// time.

const DATA = JSON.parse(document.getElementById("rows").textContent);
const PAGE = 10;
const CLIPS = "clips/";

const option = (value, text) => make("option", { value }, text ?? value);
const distinct = (values) => [...new Set(values.filter((value) => value !== undefined && value !== null && value !== ""))].sort();

const questionOf = (row) => DATA.questions[row.question];
const textOf = (row) => {
  if (row.haystack === undefined) {
    const question = row.question ? questionOf(row) : {};
    const before = (question.before || []).flatMap((turn) => [turn.question, turn.answer]);
    const parts = [question.id, ...before, question.prompt, question.caption, row.first?.text, row.second?.text, row.sample, row.prompt, row.detail];
    row.haystack = parts.filter(Boolean).join("\n").toLowerCase();
  }
  return row.haystack;
};

const facts = (pairs) =>
  make(
    "p",
    { class: "facts" },
    ...pairs
      .filter(([, value]) => value !== undefined && value !== null && value !== "")
      .map(([name, value]) => make("span", {}, `${name} `, make("b", {}, String(value)))),
  );

const answerBox = (title, answer, differing) =>
  make(
    "div",
    { class: "answer" },
    make(
      "h4",
      {},
      title,
      make("span", { class: "score" }, answer.score === undefined ? "" : answer.score === null ? `unscored${answer.status ? ` (${answer.status})` : ""}` : `score ${shown(answer.score)}`),
      answer.correct === undefined || answer.correct === null ? "" : make("span", { class: answer.correct ? "mark good" : "mark bad" }, answer.correct ? "right" : "wrong"),
      answer.support ? make("span", { class: answer.support === "supported" ? "mark good" : "mark bad" }, answer.support) : "",
      answer.cut ? make("span", { class: "mark" }, "cut at the token limit") : "",
    ),
    answerText(answer, differing),
    ...judgeSays(answer),
  );

const card = (row, titles, extra) => {
  const question = questionOf(row);
  const differing = wordDifference(row.first.text, row.second.text);
  return make(
    "article",
    { class: "card", "aria-label": `${row.kind} ${row.number}` },
    make("div", { class: "card-clip" }, clipBox(DATA.clips[question.clip], CLIPS, question.file)),
    make(
      "div",
      { class: "card-body" },
      turnsBefore(question.before),
      make("h3", { dir: "auto" }, question.prompt),
      facts([["", `${row.kind} ${row.number.toLocaleString("en")}`], ["sample", question.id], ["category", question.category], ...extra, ["gold answer", question.gold]]),
      row.tags.length ? make("p", { class: "tags" }, ...row.tags.map((tag) => make("span", {}, tag))) : "",
      make("div", { class: "answers" }, answerBox(titles[0], row.first, differing[0]), answerBox(titles[1], row.second, differing[1])),
      question.caption ? make("details", {}, make("summary", {}, "Caption that the judge read"), make("p", { dir: "auto" }, question.caption)) : "",
    ),
  );
};

const inPerCent = (share) => (share === null || share === undefined ? null : `${(100 * share).toFixed(0)} %`);
const pairCard = (row) =>
  card(row, ["Chosen", "Rejected"], [["margin", row.margin === null ? null : shown(row.margin)], ["judge's doubt", inPerCent(row.doubt)], ["made by", row.source], ["implicit margin", row.implicit === undefined ? null : shown(row.implicit)], ["", row.other_clip ? "the rejected answer goes with another or a corrupted clip" : ""]]);
const answerCard = (row) =>
  card(row, ["Before", "After"], [["set", row.set], ["change of score", row.change === null ? null : shown(row.change)], ["judge's doubt", inPerCent(row.doubt)], ["", row.outcome]]);
const dropCard = (row) =>
  make(
    "article",
    { class: "card drop" },
    make("div", { class: "card-body" }, make("h3", { dir: "auto" }, row.prompt || row.sample), facts([["sample", row.sample], ["unit", row.unit], ["reason", row.reason], ["count", row.count]]), make("p", { dir: "auto" }, row.detail)),
  );

const GALLERIES = {
  pairs: {
    rows: DATA.pairs, card: pairCard, empty: "No pair is like that.",
    sorts: { "margin, least first": (row) => row.margin, "margin, widest first": (row) => (row.margin === null ? null : -row.margin), "judge's doubt": (row) => (row.doubt === null ? null : -row.doubt), "order of the file": (row) => row.number },
    filters: { category: (row) => questionOf(row).category, source: (row) => row.source },
    numbers: { margin: (row) => row.margin, "chosen score": (row) => row.first.score },
  },
  answers: {
    rows: DATA.answers, card: answerCard, empty: "No answer is like that.",
    sorts: { "largest loss first": (row) => row.gain, "largest gain first": (row) => (row.gain === null ? null : -row.gain), "judge's doubt": (row) => (row.doubt === null ? null : -row.doubt), "order of the file": (row) => row.number },
    filters: { set: (row) => row.set, category: (row) => questionOf(row).category, outcome: (row) => row.outcome },
    numbers: { "change of score": (row) => row.change, "score after": (row) => row.second.score },
  },
  drops: {
    rows: DATA.drops, card: dropCard, empty: "Nothing was left out like that.",
    sorts: { "order of the file": (row) => row.number },
    filters: { reason: (row) => row.reason, unit: (row) => row.unit, stage: (row) => row.stage },
    numbers: {},
  },
};

const openGallery = (name, setting) => {
  const root = document.getElementById(name);
  if (!root || !setting.rows.length) return null;
  setting.rows.forEach((row, index) => { row.number ??= index + 1; row.kind ??= name.slice(0, -1); });
  const list = make("div", { class: "rows" });
  const status = make("p", { class: "quiet", role: "status" });
  const pager = make("nav", { class: "pager", "aria-label": `Pages of ${name}` });
  const controls = {};
  const labelled = (text, control) => make("label", {}, `${text} `, control);
  const bar = make("form", { class: "filters", "aria-label": `Filters of ${name}`, onsubmit: (event) => event.preventDefault() });
  let page = 0;
  const changed = () => { page = 0; show(); };
  const tags = distinct(setting.rows.flatMap((row) => row.tags || []));
  if (tags.length) {
    controls.tag = make("select", { onchange: changed }, option("", "all"), ...tags.map((tag) => option(tag)));
    bar.append(labelled("show", controls.tag));
  }
  if (Object.keys(setting.sorts).length > 1) {
    controls.sort = make("select", { onchange: changed }, ...Object.keys(setting.sorts).map((text) => option(text)));
    bar.append(labelled("sort by", controls.sort));
  }
  for (const [title, valueOf] of Object.entries(setting.filters)) {
    const values = distinct(setting.rows.map(valueOf));
    if (values.length < 2) continue;
    controls[title] = make("select", { onchange: changed }, option("", "any"), ...values.map((value) => option(value)));
    bar.append(labelled(title, controls[title]));
  }
  for (const [title, valueOf] of Object.entries(setting.numbers)) {
    if (!setting.rows.some((row) => valueOf(row) !== null && valueOf(row) !== undefined)) continue;
    for (const end of ["from", "to"]) {
      controls[`${title} ${end}`] = make("input", { type: "number", step: "any", oninput: changed });
      bar.append(labelled(`${title} ${end}`, controls[`${title} ${end}`]));
    }
  }
  controls.text = make("input", { type: "search", oninput: changed });
  bar.append(labelled("text", controls.text));

  const matches = (row) => {
    if (controls.tag?.value && !row.tags.includes(controls.tag.value)) return false;
    for (const [title, valueOf] of Object.entries(setting.filters)) {
      if (controls[title]?.value && String(valueOf(row)) !== controls[title].value) return false;
    }
    for (const [title, valueOf] of Object.entries(setting.numbers)) {
      const [low, high] = [controls[`${title} from`]?.value, controls[`${title} to`]?.value];
      const value = valueOf(row);
      if ((low || high) && (value === null || value === undefined)) return false;
      if ((low && value < Number(low)) || (high && value > Number(high))) return false;
    }
    const text = controls.text.value.trim().toLowerCase();
    return !text || textOf(row).includes(text);
  };
  const show = () => {
    const key = setting.sorts[controls.sort?.value ?? Object.keys(setting.sorts)[0]];
    const rows = setting.rows.filter(matches);
    rows.sort((left, right) => (key(left) ?? Infinity) - (key(right) ?? Infinity));
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(page, pages - 1);
    list.replaceChildren(...rows.slice(page * PAGE, page * PAGE + PAGE).map(setting.card));
    if (!rows.length) list.append(make("p", {}, setting.empty));
    status.textContent = rows.length ? `${(page * PAGE + 1).toLocaleString("en")} to ${Math.min(rows.length, page * PAGE + PAGE).toLocaleString("en")} of ${rows.length.toLocaleString("en")} ${name}` : "";
    const turn = (by) => { page += by; show(); root.scrollIntoView(); };
    pager.replaceChildren(
      make("button", { type: "button", disabled: page === 0, onclick: () => turn(-1) }, "previous"),
      make("span", {}, `page ${page + 1} of ${pages}`),
      make("button", { type: "button", disabled: page >= pages - 1, onclick: () => turn(1) }, "next"),
    );
  };
  root.append(bar, status, list, pager);
  const first = ["regression", "gain", "least margin"].find((tag) => tags.includes(tag));
  if (first) controls.tag.value = first;
  show();
  return { controls, show: changed };
};

const opened = Object.fromEntries(Object.entries(GALLERIES).map(([name, setting]) => [name, openGallery(name, setting)]));

// A link of the funnel leads to its examples: #drops=stage/unit/reason.
const followLink = () => {
  const match = /^#drops=(.+)$/.exec(location.hash);
  if (!match || !opened.drops) return;
  const [stage, unit, ...reason] = decodeURIComponent(match[1]).split("/");
  const wanted = { stage, unit, reason: reason.join("/") };
  for (const [name, value] of Object.entries(wanted)) {
    const control = opened.drops.controls[name];
    if (control) control.value = [...control.options].some((each) => each.value === value) ? value : "";
  }
  opened.drops.show();
  document.getElementById("drops").scrollIntoView();
};
addEventListener("hashchange", followLink);
followLink();
