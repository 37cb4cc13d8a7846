// Opens an event in its place, without loading the page anew. Without this, its link does the same by loading.
"use strict";

const opened = () => document.querySelector("#opened");

function close() {
  const article = opened();
  (article?.closest("tr.opened") ?? article)?.remove();
}

async function open(link) {
  const answer = await fetch(link.href, { headers: { "X-Fragment": "1" } });
  if (!answer.ok) throw new Error(answer.statusText);
  const text = await answer.text();
  if (link_of(location) !== link) return; // another address is shown by now
  const row = link.closest("tr");
  close();
  const cell = document.createElement("td");
  cell.colSpan = row.cells.length;
  cell.innerHTML = text; // escaped by the server; the policy of the page lets nothing in it run
  const place = document.createElement("tr");
  place.className = "opened";
  place.append(cell);
  row.after(place);
  place.querySelector("h3")?.scrollIntoView({ block: "nearest" });
}

function link_of(address) {
  const key = new URL(address, location).searchParams.get("event");
  const links = key ? [...document.querySelectorAll("a[data-event]")] : [];
  return links.find((link) => new URL(link.href).searchParams.get("event") === key);
}

document.addEventListener("click", (click) => {
  if (click.button || click.ctrlKey || click.metaKey || click.shiftKey) return;
  const link = click.target.closest("a[data-event], .event a.close");
  if (!link) return;
  const is_close = link.matches(".close");
  if (is_close && !link.closest("tr.opened")) return; // it stands above the list: load that
  click.preventDefault();
  const address = new URL(link.href);
  address.hash = "";
  history.pushState(null, "", address);
  if (is_close) close();
  else open(link).catch(() => location.assign(link.href));
});

addEventListener("popstate", () => {
  const link = link_of(location);
  if (link) open(link).catch(() => location.reload());
  else if (new URL(location).searchParams.get("event")) location.reload();
  else close();
});
