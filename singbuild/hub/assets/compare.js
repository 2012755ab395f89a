// Compares two images by their lists of files: compare.html#OWNER/NAME:TAG..OWNER/NAME:TAG
"use strict";

{
  const SHOWN = 200;
  const form = document.querySelector("[data-compare] form");
  const output = document.querySelector("[data-difference]");
  const [one, other] = form.querySelectorAll("input");

  async function files(place) {
    const [, name, tag] = /^([^:]+)(?::(.+))?$/.exec(place.trim()) ?? [null, place, ""];
    const key = (await load(`${name}/keys`))?.[tag || "latest"];
    if (!key) throw new Error(`There is no image ${place} here.`);
    const packed = await load(`records/${key}.files`);
    if (!packed) throw new Error(`The files of ${place} are not known.`);
    const bytes = Uint8Array.from(atob(packed), (each) => each.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const rows = JSON.parse(await new Response(stream).text());
    return new Map(rows.map((row) => [row[0], row]));
  }

  const same = (a, b) => a[1] === b[1] && a[2] === b[2] && a[3] === b[3] && a[4] === b[4];

  function contents(rows) {
    return new Set([...rows.values()].filter((row) => row[1] === "f" && row[3]).map((row) => row[4]));
  }

  function list(title, sign, paths) {
    if (!paths.length) return [];
    const items = paths.slice(0, SHOWN).map((path) => element("li", {}, element("code", { textContent: path })));
    if (paths.length > SHOWN) items.push(element("li", { textContent: `and ${paths.length - SHOWN} more` }));
    return [element("h3", { className: sign, textContent: `${title} (${paths.length})` }), element("ul", { className: "paths" }, ...items)];
  }

  async function compare() {
    const heading = output.querySelector("h2");
    output.hidden = false;
    output.replaceChildren(heading, element("p", { textContent: "Reading two lists of files …" }));
    try {
      const [was, now] = await Promise.all([files(one.value), files(other.value)]);
      const added = [...now.keys()].filter((path) => !was.has(path));
      const removed = [...was.keys()].filter((path) => !now.has(path));
      const changed = [...now.keys()].filter((path) => was.has(path) && !same(was.get(path), now.get(path)));
      const [a, b] = [contents(was), contents(now)];
      const both = [...a].filter((each) => b.has(each)).length;
      const share = Math.round((100 * both) / Math.max(1, a.size + b.size - both));
      const total = added.length + removed.length + changed.length;
      const differ = total === 1 ? "1 path differs" : `${total} paths differ`;
      const summary = total ? `${differ}; ${share} % of file contents are in common.` : "They hold the same files.";
      output.replaceChildren(heading, element("p", { textContent: summary }), ...list("Only in the second", "ins", added), ...list("Only in the first", "del", removed), ...list("Different", "note", changed));
    } catch (error) {
      output.replaceChildren(heading, element("p", { className: "failed", textContent: error.message }));
    }
  }

  function fromAddress() {
    const [first, second] = decodeURIComponent(location.hash.slice(1)).split("..");
    if (!first || !second) return;
    [one.value, other.value] = [first, second];
    compare();
  }

  form.hidden = false;
  document.querySelector("[data-without-script]").hidden = true;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const address = `#${one.value.trim()}..${other.value.trim()}`;
    if (location.hash === address) compare();
    else location.hash = address;
  });
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
}
