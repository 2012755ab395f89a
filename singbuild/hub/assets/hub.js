// Search, filters, copying. Pages are complete without it; it loads nothing but the site's own files.
"use strict";

const root = document.body.dataset.root;

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// A page from file:// may load scripts and nothing else: what pages need is in scripts, each of
// which calls hubData(its name, values).
const waiting = new Map();
const loaded = new Map();
window.hubData = (name, values) => waiting.get(name)?.(values);

function load(name) {
  if (!loaded.has(name)) {
    loaded.set(name, new Promise((done) => {
      waiting.set(name, done);
      const address = root + name.split("/").map(encodeURIComponent).join("/");
      document.head.append(element("script", { src: `${address}.js`, onerror: () => done(null) }));
    }));
  }
  return loaded.get(name);
}

function filter(label, changed) {
  const input = element("input", { type: "search" });
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => changed(input.value.toLowerCase().split(/\s+/).filter(Boolean)), 60);
  });
  return element("label", { className: "filter" }, element("span", { textContent: label }), input);
}

for (const table of document.querySelectorAll("table[data-filter]")) {
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
  if (rows.length < 6) continue;
  table.parentElement.before(filter(table.dataset.filter, (words) => {
    for (const [row, text] of rows) row.hidden = !words.every((word) => text.includes(word));
  }));
}

for (const tree of document.querySelectorAll("[data-tree]")) {
  const items = [...tree.querySelectorAll("li")];
  const folders = [...tree.querySelectorAll("details")];
  const names = new Map(items.map((item) => [item, item.querySelector(".path").textContent.toLowerCase()]));
  const field = filter("Filter names", (words) => {
    for (const item of items) item.hidden = words.length > 0;
    if (!words.length) return;
    for (const item of items) {
      if (!words.every((word) => names.get(item).includes(word))) continue;
      for (const inner of item.querySelectorAll("li")) inner.hidden = false;
      for (let place = item; place !== tree; place = place.parentElement) {
        place.hidden = false;
        if (place.tagName === "DETAILS" && !item.contains(place)) place.open = true;
      }
    }
  });
  const button = element("button", { type: "button", textContent: "Open all" });
  button.addEventListener("click", () => {
    const open = folders.some((each) => !each.open);
    for (const each of folders) each.open = open;
    button.textContent = open ? "Close all" : "Open all";
  });
  tree.before(element("div", { className: "tools" }, field, ...(folders.length ? [button] : [])));
  const show = () => {
    let place = document.getElementById(location.hash.slice(1));
    place?.scrollIntoView();
    for (; place && tree.contains(place); place = place.parentElement) place.open = true;
  };
  window.addEventListener("hashchange", show);
  show();
}

for (const text of document.querySelectorAll("pre[data-copy]")) {
  if (!navigator.clipboard) break;
  const label = text.getAttribute("aria-label");
  const button = element("button", { type: "button", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy: ${label}`);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  text.after(button);
}

// The index of words lies in shards, one for each beginning of a word. Of a word that very many
// images have it names the first of them, and how many there are.
function shardName(word) {
  const start = word.startsWith("lib") ? word.slice(0, 5) : word.slice(0, 2);
  return `search/${[...start].map((each) => (/[a-z0-9]/.test(each) ? each : "_")).join("")}`;
}

const PAGES = { image: "index.html", label: "index.html#labels", package: "packages.html", program: "files/index.html" };

const form = document.querySelector("[data-site-search]");
if (form) {
  form.hidden = false;
  const input = form.querySelector("input");
  const list = form.querySelector("ul");
  const status = form.querySelector("[role=status]");
  const close = () => { list.replaceChildren(); status.textContent = ""; };
  const answer = async () => {
    const word = input.value.toLowerCase().trim();
    if (word.length < 2) return close();
    if ("lib".startsWith(word.slice(0, 3)) && word.length > 2 && word.length < 5) {
      list.replaceChildren();
      status.textContent = "Go on typing: many names begin so.";
      return;
    }
    const shard = (await load(shardName(word))) ?? { places: [], words: {} };
    if (input.value.toLowerCase().trim() !== word) return;
    const names = Object.keys(shard.words).filter((key) => key.startsWith(word));
    names.sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
    const links = [];
    for (const name of names) {
      for (const [kind, count, places] of shard.words[name]) {
        for (const number of places) {
          const [image, tag] = shard.places[number].split(/:(?=[^:]*$)/);
          const note = places.length < count && number === places.at(-1) ? ` and ${count - places.length} more` : "";
          const link = element("a", { href: `${root}${image}/${tag}/${PAGES[kind]}` }, name);
          link.append(element("small", { textContent: `${kind}${kind === "image" ? "" : " in"} ${image}:${tag}${note}` }));
          links.push(element("li", {}, link));
        }
      }
    }
    status.textContent = links.length > 50 ? `${links.length} found, the first 50` : `${links.length} found`;
    list.replaceChildren(...links.slice(0, 50));
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", answer);
  form.addEventListener("keydown", (event) => {
    const stops = [input, ...list.querySelectorAll("a")];
    const here = stops.indexOf(document.activeElement);
    if (event.key === "Escape") {
      input.value = "";
      close();
      input.focus();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      stops.at((here + (event.key === "ArrowDown" ? 1 : -1)) % stops.length).focus();
    } else if (event.key === "Enter" && here === 0) {
      list.querySelector("a")?.click();
    }
  });
  form.addEventListener("focusout", (event) => {
    if (!form.contains(event.relatedTarget)) setTimeout(close, 150);
  });
  input.addEventListener("focus", () => { if (input.value && !list.children.length) answer(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      input.focus();
    }
  });
}
