"use strict";
// The playground: asks /search or /v2/rerank, and shows ranks before and after, the time of each stage, and which words were met.
const at = (id) => document.getElementById(id);
const COLOURS = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#e45756"];
let served = {};

function made(name, text, more = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(more)) element.setAttribute(key, value);
  return element;
}

async function asked(path, body) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  const answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status}: ${told.message}`);
  return { told, headers: answer.headers };
}

async function about() {
  try {
    served = (await asked("info")).told;
    const spans = served.relevant_spans ? ", shows which words were met" : "";
    at("served").textContent = `${served.kind} ${served.model} on ${served.backend}, ${served.max_length} tokens at most${spans}`;
    at("by-index").disabled = !served.index;
    if (served.index) at("by-index").parentElement.append(`: ${served.index}`);
  } catch (error) {
    at("served").textContent = `The server does not say what it serves (${error.message}). Does it ask for a token?`;
  }
}

function paint(text, spans) {
  // Code points, as the server counts them.
  const points = Array.from(text), cell = made("td"), strongest = Math.max(...spans.map((span) => span.score), 1e-9);
  let done = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    cell.append(points.slice(done, span.start).join(""));
    const share = span.score / strongest;
    const mark = made("mark", points.slice(span.start, span.end).join(""), { title: span.score.toFixed(3) });
    mark.style.setProperty("--strength", (0.15 + 0.75 * share).toFixed(2));
    cell.append(mark);
    done = span.end;
  }
  cell.append(points.slice(done).join(""));
  return cell;
}

function showStages(stages) {
  const all = stages.reduce((sum, stage) => sum + stage.ms, 0) || 1;
  at("bar").replaceChildren(...stages.map((stage, i) => {
    const part = made("span", undefined, { title: `${stage.name}: ${stage.ms.toFixed(1)} ms` });
    part.style.flex = stage.ms / all;
    part.style.background = COLOURS[i % COLOURS.length];
    return part;
  }));
  at("bar").setAttribute("aria-label", stages.map((stage) => `${stage.name} ${stage.ms.toFixed(1)} milliseconds`).join(", "));
  at("stages").replaceChildren(...stages.map((stage, i) => {
    const line = made("li"), dot = made("i", undefined, { "aria-hidden": "true" });
    dot.style.background = COLOURS[i % COLOURS.length];
    const counts = stage.n_out === undefined ? "" : `, ${stage.n_in} → ${stage.n_out}`;
    line.append(dot, `${stage.name}: ${stage.ms.toFixed(1)} ms${counts}`);
    return line;
  }));
}

function showRows(rows) {
  at("rows").replaceChildren(...rows.map((row) => {
    const line = made("tr"), moved = row.before === undefined ? 0 : row.before - row.rank;
    const said = moved > 0 ? `▲ ${moved}` : moved < 0 ? `▼ ${-moved}` : "=";
    const how = moved > 0 ? `up by ${moved}` : moved < 0 ? `down by ${-moved}` : "where it was";
    line.append(made("td", row.rank), made("td", row.before ?? ""));
    line.append(made("td", said, { class: moved > 0 ? "up" : moved < 0 ? "down" : "same", "aria-label": how }));
    line.append(made("td", row.score.toFixed(4)));
    const text = paint(row.text, row.spans ?? []);
    if (row.cut) text.append(made("span", `${row.cut} tokens not read`, { class: "cut" }));
    line.append(text);
    return line;
  }));
}

function cutOf(warnings) {
  // "document 3: 120 tokens were cut off"
  const found = {};
  for (const warning of warnings) {
    const match = /^document (\d+): (\d+) tokens were cut off/.exec(warning);
    if (match) found[match[1]] = Number(match[2]);
  }
  return found;
}

async function ranked(query) {
  const documents = at("documents").value.split("\n").filter((line) => line.trim());
  const body = { query, documents };
  if (served.relevant_spans) body.relevant_spans = { mode: "enabled", threshold: 0 };
  const begun = performance.now(), { told, headers } = await asked("v2/rerank", body);
  const warnings = told.meta.warnings ?? [], cut = cutOf(warnings), whole = performance.now() - begun;
  const stages = (headers.get("server-timing") ?? "").split(",").map((part) => /(\w+);dur=([\d.]+)/.exec(part)).filter(Boolean)
    .map((match) => ({ name: match[1], ms: Number(match[2]) }));
  const spent = stages.reduce((sum, stage) => sum + stage.ms, 0);
  stages.push({ name: "rest", ms: Math.max(0, whole - spent) });
  const rows = told.results.map((row, i) => ({
    rank: i + 1, before: row.index + 1, score: row.relevance_score, text: documents[row.index], spans: row.relevant_spans ?? [], cut: cut[row.index],
  }));
  return { stages, rows, notes: warnings.filter((warning) => !/^document \d+: /.test(warning)) };
}

async function searched(query) {
  const depth = Number(at("depth").value) || 50;
  const { told } = await asked("search", { query, depth, top_n: 20 });
  const model = told.stages[told.stages.length - 1].name;
  const rows = told.results.map((row) => ({
    rank: row.rank, before: Object.entries(row.ranks).filter(([name]) => name !== model).map(([, rank]) => rank).pop(),
    score: row.score, text: [row.document.title, row.document.text].filter(Boolean).join(" — "),
  }));
  if (served.relevant_spans && rows.length) {
    const body = { query, documents: rows.map((row) => row.text), relevant_spans: { mode: "enabled", threshold: 0 } };
    for (const row of (await asked("v2/rerank", body)).told.results) rows[row.index].spans = row.relevant_spans;
  }
  return { stages: told.stages, rows, notes: told.unfinished.map((name) => `${name} was cut short by the deadline`) };
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = at("query").value, status = at("status");
  status.className = "";
  status.textContent = "Ranking …";
  try {
    const found = await (at("by-index").checked ? searched(query) : ranked(query));
    showStages(found.stages);
    showRows(found.rows);
    at("notes").textContent = found.notes.join(" ");
    at("results").hidden = false;
    status.textContent = `${found.rows.length} documents ranked.`;
    at("results").focus({ preventScroll: true });
  } catch (error) {
    status.className = "error";
    status.textContent = error.message;
  }
});
at("key").addEventListener("change", about);
about();
