// What the pages do besides being read: they keep themselves up to date, ask before they change
// something, select all, and know some keys. Without this script they are forms and links.
"use strict";

(() => {
  const $ = (selector) => document.querySelector(selector);
  const body = document.body;

  // --- live ---------------------------------------------------------------------------------
  // The page is fetched again, and each part of it with `data-live` takes the place of the old one.
  // When: as events say that something happened, and every few seconds besides.

  const WITHOUT_EVENTS = 5000; // as often as the server takes a sample
  const WITH_EVENTS = 15000; // for ages and workers, which no event tells of
  const NOTICED = 4000; // that a notice stays at least: it has been read by then
  const LEAST = 1000; // between two looks, however many events come
  const SLOWEST = 10000; // between two tries while the server is away

  let paused = false;
  let timer = 0;
  let source = null;
  let looking = false;
  let wanted = false;
  let failures = 0;
  let lastLook = Date.now();
  const opened = Date.now();

  const refreshes = body.hasAttribute("data-refreshes");
  const awake = () => refreshes && !paused && !document.hidden;

  function plan(delay) {
    clearTimeout(timer);
    timer = awake() ? setTimeout(look, delay) : 0;
  }

  function happened() {
    if (!awake()) return;
    if (looking) wanted = true;
    else plan(Math.max(0, lastLook + LEAST - Date.now()));
  }

  async function look() {
    looking = true;
    wanted = false;
    try {
      const answer = await fetch(location.href, {
        headers: { Accept: "text/html", "X-Refresh": "1" },
        credentials: "same-origin",
        cache: "no-store",
        signal: AbortSignal.timeout(30000),
      });
      if (answer.redirected && new URL(answer.url).pathname === body.dataset.login) {
        location.assign(answer.url);
        return;
      }
      if (answer.status === 403 || answer.status === 404) {
        location.reload(); // deleted meanwhile, or no longer for this key: the server's page says so
        return;
      }
      if (answer.status >= 500 || answer.status === 429) throw new Error(String(answer.status));
      // 422: a filter with something wrong in it lists what passes the rest.
      // And the button that a question is about stays, until that is answered.
      if ((answer.ok || answer.status === 422) && !ask.open) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      failures = 0;
    } catch {
      failures += 1;
    }
    looking = false;
    lastLook = Date.now();
    $("#gone").hidden = failures === 0;
    if (failures > 0) plan(Math.min(SLOWEST, 1000 * 2 ** (failures - 1)));
    else plan(wanted ? LEAST : source ? WITH_EVENTS : WITHOUT_EVENTS);
  }

  function replace(fresh) {
    // Of the session as it is now: another tab may have begun a new one.
    const token = fresh.querySelector("[name=form_token]")?.value;
    if (token) for (const each of document.querySelectorAll("[name=form_token]")) each.setAttribute("value", token);
    for (const part of fresh.querySelectorAll("[data-live][id]")) {
      const old = document.getElementById(part.id);
      const next = document.importNode(part, true);
      addLines(next, lines);
      if (!old || old.outerHTML === next.outerHTML) continue;
      const chosen = new Set([...old.querySelectorAll("input:checked")].map((box) => box.value));
      const open = [...old.querySelectorAll("details")].map((one) => one.open);
      const current = old.querySelector("tr.current input")?.value;
      const focus = old.contains(document.activeElement) ? whatIs(document.activeElement) : null;
      const scrolled = [...old.querySelectorAll("pre, .scroll")].map((one) => one.scrollTop);
      for (const box of next.querySelectorAll("tbody input[type=checkbox]")) {
        box.checked = chosen.has(box.value);
        if (box.value === current) box.closest("tr").classList.add("current");
      }
      const all = [...next.querySelectorAll("details")];
      // What is new comes first, and is as the page has it.
      all.slice(-open.length || all.length).forEach((one, at) => { one.open = open[at] ?? one.open; });
      old.replaceWith(next);
      next.querySelectorAll("pre, .scroll").forEach((one, at) => { one.scrollTop = scrolled[at] || 0; });
      if (focus) [...next.querySelectorAll("a, button, input, summary, pre, [tabindex]")].find((one) => whatIs(one) === focus)?.focus();
    }
    // Of what was done before this page was opened. Where it can be undone it stays.
    const notice = $("#notice");
    if (notice && !notice.querySelector("button") && Date.now() - opened >= NOTICED) notice.remove();
    selection();
  }

  const whatIs = (one) => [one.tagName, one.id, one.getAttribute("href"), one.value, one.textContent].join("\n");

  function listen() {
    const path = body.dataset.events;
    if (!path || source || !awake()) return;
    source = new EventSource(path);
    for (const kind of ["state", "progress", "log", "gap"]) source.addEventListener(kind, (event) => { heard(event); happened(); });
    source.addEventListener("end", () => { happened(); deafen(); body.dataset.events = ""; });
    source.addEventListener("error", () => {
      // Closed for good: too many listen, or the login has ended. The looks go on, and say which.
      if (source && source.readyState === EventSource.CLOSED) deafen();
      happened();
    });
  }

  function deafen() {
    if (source) missed();
    source?.close();
    source = null;
  }

  // Log lines of an attempt that runs come with the events; once it has ended the page has them.

  const MOST_LINES = 100; // as many as are kept of an attempt, where no setting says otherwise
  const LONGEST_LINE = 8000; // characters, as the page cuts them
  let lines = [];
  let attempt = null;

  function heard(event) {
    if (event.type === "gap") { missed(); return; }
    if (!$("#timeline")) return;
    const told = JSON.parse(event.data);
    if (told.attempt !== attempt) lines = [];
    attempt = told.attempt;
    if (told.line) line(told.line);
  }

  function missed() {
    if (lines.length > 0 && lines.at(-1) !== null) line(null);
  }

  function line(one) {
    lines = [...lines, one].slice(-MOST_LINES);
    addLines(document, [one]);
  }

  function addLines(to, fresh) {
    const running = to.querySelector(".timeline > .running");
    if (!running || fresh.length === 0) return;
    let text = running.querySelector(".logs");
    if (!text) {
      text = document.createElement("pre");
      Object.assign(text, { className: "logs", tabIndex: 0, role: "region" });
      text.setAttribute("aria-label", running.querySelector("strong").textContent);
      running.append(text);
      fresh = lines;
    }
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 4;
    text.append(...fresh.map(shown));
    while (text.childElementCount > MOST_LINES) text.firstElementChild.remove();
    if (atEnd) text.scrollTop = text.scrollHeight;
  }

  function shown(one) {
    const span = document.createElement("span");
    if (one === null) {
      span.textContent = "…";
      return span;
    }
    const time = document.createElement("time");
    time.dateTime = one.time;
    time.textContent = one.time.slice(11, 23);
    if (["WARNING", "ERROR", "CRITICAL"].includes(one.level)) span.className = one.level.toLowerCase();
    span.append(time, ` ${one.level} ${one.logger}: ${one.message.slice(0, LONGEST_LINE)}`);
    return span;
  }

  function wake() {
    const mark = $("#live");
    mark.hidden = !refreshes;
    mark.classList.toggle("paused", paused);
    const text = $("#live-text");
    text.textContent = paused ? text.dataset.paused : text.dataset.live;
    if (awake()) {
      listen();
      plan(Date.now() - lastLook > WITHOUT_EVENTS ? 0 : WITHOUT_EVENTS);
    } else {
      deafen();
      plan(0);
    }
  }

  document.addEventListener("visibilitychange", wake);
  addEventListener("online", happened);
  addEventListener("pagehide", deafen);
  addEventListener("pageshow", (event) => { if (event.persisted) { lastLook = 0; wake(); } });

  // --- logging out --------------------------------------------------------------------------
  // The login page tells the other pages of this browser, which listen no longer, and look: where
  // the login has ended that leads there too. Not a form's page: what was typed stays.

  const others = "BroadcastChannel" in window ? new BroadcastChannel("tqe-session") : null;
  if (others) {
    others.onmessage = () => { deafen(); if (refreshes) look(); };
    if (location.pathname === body.dataset.login) others.postMessage("login");
  }

  // --- selecting ----------------------------------------------------------------------------

  const boxes = () => [...document.querySelectorAll("#list tbody input[type=checkbox]")];

  function selection() {
    const all = boxes();
    const number = all.filter((box) => box.checked).length;
    const head = $("#all");
    if (head) {
      head.hidden = all.length === 0;
      head.checked = number > 0 && number === all.length;
      head.indeterminate = number > 0 && number < all.length;
    }
    const group = $("#with-selected");
    if (group) group.hidden = all.length === 0;
    for (const button of document.querySelectorAll("[data-selects]")) button.disabled = number === 0;
    const told = $("#selected");
    if (told) {
      const text = number === 0 ? told.dataset.none : number === 1 ? told.dataset.one : told.dataset.many;
      told.textContent = text.replace("{n}", String(number));
    }
  }

  let lastBox = null;
  document.addEventListener("click", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement) || box.type !== "checkbox") return;
    if (box.id === "all") for (const each of boxes()) each.checked = box.checked;
    else if (box.name === "id") {
      const all = boxes();
      const from = all.indexOf(lastBox);
      const to = all.indexOf(box);
      if (event.shiftKey && from >= 0 && to >= 0) {
        for (const each of all.slice(Math.min(from, to), Math.max(from, to) + 1)) each.checked = box.checked;
      }
      lastBox = box;
    }
    selection();
  });

  // --- asking -------------------------------------------------------------------------------

  const ask = $("#ask");
  let asked = null;

  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    const form = event.target;
    if (!button || button === asked) {
      asked = null;
      return;
    }
    const number = button.hasAttribute("data-selects") ? boxes().filter((box) => box.checked).length : 1;
    const isOne = button.hasAttribute("data-selects") && number === 1;
    const question = isOne ? button.dataset.confirmOne : button.dataset.confirm;
    if (!question) return;
    const yes = (isOne ? button.dataset.yesOne : button.dataset.yes) || button.textContent;
    event.preventDefault();
    $("#ask-text").textContent = question.replace("{n}", String(number));
    $("#ask-yes").textContent = yes.replace("{n}", String(number));
    $("#ask-yes").className = button.classList.contains("danger") ? "danger" : "primary";
    $("#ask-yes").onclick = () => {
      ask.close();
      const said = document.createElement("input");
      Object.assign(said, { type: "hidden", name: "confirmed", value: "1" });
      form.append(said);
      asked = button;
      form.requestSubmit(button);
    };
    ask.showModal();
    $("#ask-no").focus();
  });
  $("#ask-no").addEventListener("click", () => ask.close());

  // --- keys ---------------------------------------------------------------------------------

  const help = $("#help");
  const switched = $("#keys-on");
  const stored = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("tqe-keys", value);
      return localStorage.getItem("tqe-keys") !== "off";
    } catch {
      return true; // a browser that keeps nothing
    }
  };
  switched.checked = stored();
  switched.addEventListener("change", () => stored(switched.checked ? "on" : "off"));
  $("#help-button").hidden = false;
  $("#help-button").addEventListener("click", () => help.showModal());
  $("#help-close").addEventListener("click", () => help.close());

  let before = "";
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    const types = at instanceof HTMLElement && (at.matches("input:not([type=checkbox]), textarea, select") || at.isContentEditable);
    if (!switched.checked || types || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    const key = before === "g" ? `g${event.key}` : event.key;
    before = event.key;
    if (key.length === 2 && key[0] === "g") {
      before = "";
      const link = document.querySelector(`a[data-key="${CSS.escape(key)}"]`);
      if (link) link.click();
      return;
    }
    if (key === "?") help.showModal();
    else if (key === "/") $(".filters input:not([type=hidden])")?.focus();
    else if (key === "p" && refreshes) { paused = !paused; wake(); }
    else if (key === "j" || key === "k") step(key === "j" ? 1 : -1);
    else if (key === "x") $("tr.current input[type=checkbox]")?.click();
    else return;
    event.preventDefault();
  });

  function step(by) {
    const rows = [...document.querySelectorAll("#list tbody tr")];
    if (rows.length === 0) return;
    const old = rows.findIndex((row) => row.classList.contains("current"));
    const next = rows[Math.min(rows.length - 1, Math.max(0, old + by))];
    rows[old]?.classList.remove("current");
    next.classList.add("current");
    next.scrollIntoView({ block: "nearest" });
    next.querySelector("a")?.focus({ preventScroll: true });
  }

  selection();
  wake();
})();
