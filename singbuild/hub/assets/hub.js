// Search and filters. Pages are complete without it; it loads nothing but the site's own files.
"use strict";

// A table with data-filter gets a field that hides the rows without its words.
for (const table of document.querySelectorAll("table[data-filter]")) {
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
  const label = document.createElement("label");
  label.className = "filter";
  label.append("Filter ");
  const input = label.appendChild(document.createElement("input"));
  input.type = "search";
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const [row, text] of rows) row.hidden = !words.every((word) => text.includes(word));
  });
  table.parentElement.before(label);
}

// The index lies in shards, one for each beginning of a word. A shard is a script, since a page
// from file:// may load scripts and nothing else.
const shards = new Map();
window.hubShard = (name, entries) => shards.get(name)?.(entries);

function shard(name) {
  return new Promise((done) => {
    shards.set(name, done);
    const script = document.createElement("script");
    script.src = `${document.body.dataset.root}search/${name}.js`;
    script.onerror = () => done({});
    document.head.append(script);
  });
}

const loaded = new Map();
function load(name) {
  if (!loaded.has(name)) loaded.set(name, shard(name));
  return loaded.get(name);
}

const form = document.querySelector("[data-site-search]");
if (form) {
  form.hidden = false;
  const input = form.querySelector("input");
  const list = form.querySelector("ul");
  const status = form.querySelector("[role=status]");
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", async () => {
    const word = input.value.toLowerCase().trim();
    if (word.length < 2) {
      list.replaceChildren();
      status.textContent = "";
      return;
    }
    const name = [...word.slice(0, 2)].map((each) => (/[a-z0-9]/.test(each) ? each : "_")).join("");
    const entries = await load(name);
    if (input.value.toLowerCase().trim() !== word) return;
    const found = Object.entries(entries).filter(([key]) => key.startsWith(word));
    const links = found.flatMap(([key, pages]) => pages.map(([page, what]) => [key, page, what]));
    status.textContent = `${links.length} found`;
    list.replaceChildren(
      ...links.slice(0, 50).map(([key, page, what]) => {
        const item = document.createElement("li");
        const link = item.appendChild(document.createElement("a"));
        link.href = `${document.body.dataset.root}${page}`;
        link.textContent = `${key} (${what})`;
        return item;
      }),
    );
  });
}
