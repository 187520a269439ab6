// The queries of each collection: a list to sort and filter; each opens to show why systems scored as they did.
// Text from the data is only ever inserted as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const AT_ONCE = 60; // rows of the list
  const SPACE = "http://www.w3.org/2000/svg";

  // Make an element; children are elements or texts, attributes of null are left out.
  const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SPACE, name), attributes, children);
  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const option = (value, text = value) => make("option", { value }, text);
  // Impacts and their products are whole numbers; the weights of BM25 and RM3 are not.
  const amount = (value) => value.toLocaleString("en", Number.isInteger(value) ? {} : { maximumSignificantDigits: 4 });
  const isSame = (one, other) => Math.abs(one - other) < (Number.isInteger(one) ? 0.5 : 1e-3 * Math.max(1, one));
  const plain = (value) => value.toFixed(3);
  const EQUAL = 5e-5; // values have four digits
  const outcome = (difference) => difference > EQUAL ? "better" : difference < -EQUAL ? "worse" : "tie";
  const signed = (difference) => ({
    better: `▲ +${plain(difference)}`, worse: `▼ −${plain(-difference)}`, tie: "= 0",
  })[outcome(difference)];

  // A bar of a fraction of the width.
  const bar = (fraction, kind = "") => {
    const inside = make("span", { class: `fill ${kind}` });
    inside.style.width = `${Math.max(0, Math.min(1, fraction)) * 100}%`;
    return make("span", { class: "track", "aria-hidden": "true" }, inside);
  };
  // A bar from the middle, to the right for what is better.
  const difference = (value) => {
    const size = Math.abs(value) * 48;
    return draw("svg", { class: "difference", viewBox: "0 0 100 12", width: 100, height: 12, "aria-hidden": "true" },
      draw("rect", { class: outcome(value), x: value > 0 ? 50 : 50 - size, y: 2, width: size, height: 8 }),
      draw("path", { class: "axis", d: "M50 0V12" }));
  };
  const table = (kind, label, head, rows, foot = []) => make("div", { class: "scrolls", tabindex: kind ? 0 : null, role: "region", "aria-label": label },
    make("table", { class: kind || null },
      ...(head.length ? [make("thead", {}, make("tr", {}, ...head))] : []),
      make("tbody", {}, ...rows), ...(foot.length ? [make("tfoot", {}, ...foot)] : [])));

  const icons = {};
  const icon = (kind) => icons[kind].cloneNode(true);

  function documentName(name, grade) {
    const sign = grade === null ? "" : grade > 0 ? "● " : "○ ";
    return sign + name + (grade > 1 ? ` (${grade})` : "");
  }

  function systemsOfQuery(collection, query, measure, baseline) {
    const rows = collection.systems.map((system, place) => {
      const values = query.values[place];
      const off = baseline < 0 || place === baseline ? null : values[measure] - query.values[baseline][measure];
      return make("tr", {},
        make("th", { scope: "row" }, icon(system.kind), system.name),
        make("td", { class: "picture" }, bar(values[measure])),
        ...values.map((value) => make("td", { class: "number" }, plain(value))),
        baseline < 0 ? null : make("td", { class: `number ${off === null ? "" : outcome(off)}` }, off === null ? "baseline" : signed(off)),
        make("td", {}, make("span", { class: "docs" }, ...query.top[place].map(([name, grade], rank) =>
          make("span", { class: grade > 0 ? "relevant" : null }, `${rank + 1} ${documentName(name, grade)}`)))));
    });
    const head = ["system", "", ...data.measures, ...(baseline < 0 ? [] : [`${data.measures[measure]} vs ${data.baseline}`]), "first documents"];
    return table("opened", "All systems on this query", head.map((text, place) =>
      make("th", { scope: "col", class: place === 1 ? "picture" : place > 1 && place < head.length - 1 ? "number" : null }, text)), rows);
  }

  function termsOfQuery(explanation) {
    const heaviest = Math.max(...explanation.terms.map(([, weight]) => weight));
    const rows = explanation.terms.map(([term, weight, own]) => make("tr", {},
      make("th", { scope: "row" }, `${own ? "" : "+ "}${term}`), make("td", { class: "number" }, amount(weight)),
      make("td", { class: "bar" }, bar(weight / heaviest, own ? "" : "added"))));
    const more = explanation.term_count - explanation.terms.length;
    return make("div", { class: "terms" },
      make("h4", {}, `The query as ${explanation.term_count} term${explanation.term_count === 1 ? "" : "s"}`),
      table("", "Terms of the query", [], rows),
      more > 0 ? make("p", { class: "note" }, `and ${more} lighter ones`) : null);
  }

  function scoreOfDocument(found) {
    const largest = Math.max(...found.contributions.map(([, of, other]) => of * other));
    let sum = found.rest;
    const rows = found.contributions.map(([term, ofQuery, ofDocument, own]) => {
      const product = ofQuery * ofDocument;
      sum += product;
      return make("tr", { class: "contribution" },
        make("th", { scope: "row" }, `${own ? "" : "+ "}${term}`),
        make("td", { class: "number" }, `${amount(ofQuery)} × ${amount(ofDocument)}`),
        make("td", { class: "number product" }, amount(product)),
        make("td", { class: "number" }, `${(100 * product / (found.score || 1)).toFixed(1)}%`),
        make("td", { class: "bar" }, bar(product / largest, own ? "" : "added")));
    });
    const others = found.shared - found.contributions.length;
    const foot = (name, value) => make("tr", {}, make("th", { scope: "row", colspan: 2 }, name), make("td", { class: "number" }, amount(value)), make("td", { colspan: 2 }));
    return make("div", { class: "document" },
      make("h5", {}, `Rank ${found.rank}: ${documentName(found.id, found.grade)}`),
      table("", `Score of ${found.id}`, [], rows, [
        ...(others > 0 ? [foot(`${others} other term${others === 1 ? "" : "s"}`, found.rest)] : []),
        foot(isSame(sum, found.run_score) ? "= Lucene’s score" : `sum (${amount(found.run_score)} in Lucene)`, sum)]));
  }

  function explanations(query, preferred) {
    const names = Object.keys(query.explained);
    if (!names.length) return null;
    const shown = make("div", { class: "why" });
    const buttons = names.map((name) => make("button", { type: "button", onclick: () => show(name) }, name));
    const show = (name) => {
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", names[place] === name));
      const explanation = query.explained[name];
      shown.replaceChildren(termsOfQuery(explanation), make("div", {},
        make("h4", {}, "Scores of documents, term by term: weight in the query × in the document"),
        make("div", { class: "documents" }, ...explanation.documents.map(scoreOfDocument))));
    };
    show(names.includes(preferred) ? preferred : names[0]);
    return make("section", { class: "explained" },
      make("h4", {}, "Why: terms of ", make("span", { class: "switch", role: "group", "aria-label": "System that is explained" }, ...buttons)),
      make("p", { class: "note" }, "+ and hatched: a term that was added; the others are the query’s own."), shown);
  }

  function withoutExplanation(collection) {
    const others = collection.queries.some((query) => Object.keys(query.explained).length);
    return make("p", { class: "note" }, others
      ? "Terms and scores are left out here, so that the page stays small: they are there for the queries in which systems differ most."
      : "No system here has scores that can be explained term by term.");
  }

  // The list of queries of a collection.
  function queries(section, collection, number) {
    const baseline = collection.systems.findIndex((system) => system.is_baseline);
    const others = collection.systems.map((_, place) => place).filter((place) => place !== baseline || collection.systems.length === 1);
    const state = {
      measure: 0, order: "loss", only: "all", words: "", limit: AT_ONCE, open: new Set(),
      system: others.find((place) => collection.systems[place].kind === "csplade") ?? others[0],
    };
    const list = make("ul", { class: "list" });
    const heads = make("div", { class: "row heads", "aria-hidden": "true" });
    const told = make("p", { class: "note", role: "status" });
    const more = make("button", { type: "button", class: "more", onclick: () => { state.limit += 4 * AT_ONCE; update(); } }, "Show more queries");
    const off = (query) => baseline < 0 ? 0 : query.values[state.system][state.measure] - query.values[baseline][state.measure];
    const orders = {
      loss: ["largest losses first", (one, other) => off(one) - off(other)],
      win: ["largest wins first", (one, other) => off(other) - off(one)],
      low: ["lowest first", (one, other) => one.values[state.system][state.measure] - other.values[state.system][state.measure]],
      query: ["by query", (one, other) => one.text.localeCompare(other.text)],
    };

    const chosen = (label, items, value, set) => make("label", {}, label,
      (() => {
        const select = make("select", { onchange: (event) => { set(event.target.value); state.limit = AT_ONCE; update(); } }, ...items);
        select.value = value;
        return select;
      })());
    const controls = make("div", { class: "controls" },
      chosen("System", others.map((place) => option(place, collection.systems[place].name)), state.system, (value) => { state.system = Number(value); }),
      chosen("Order", Object.entries(orders).map(([name, [text]]) => option(name, text)), state.order, (value) => { state.order = value; }),
      chosen("Show", [option("all", "all queries"), option("better", "wins"), option("tie", "ties"), option("worse", "losses")], state.only, (value) => { state.only = value; }),
      make("label", {}, "Find", make("input", { type: "search", placeholder: "words or an id", oninput: (event) => { state.words = event.target.value.toLowerCase(); state.limit = AT_ONCE; update(); } })));

    function sparks(query) {
      const wide = 6, high = 20;
      return draw("svg", { class: "sparks", width: wide * collection.systems.length, height: high, "aria-hidden": "true" },
        ...collection.systems.map((system, place) => {
          const size = Math.max(1, query.values[place][state.measure] * high);
          return draw("rect", { class: place === state.system ? "chosen" : null, x: place * wide, y: high - size, width: wide - 1, height: size });
        }),
        baseline < 0 ? null : draw("path", { class: "reference", d: `M0 ${(1 - query.values[baseline][state.measure]) * (high - 1) + 0.5}H${wide * collection.systems.length}` }));
    }

    function row(query, place) {
      const value = off(query), id = `query-${number}-${place}`;
      const panel = make("div", { class: "panel", id, role: "region", "aria-label": `Query ${query.id}`, hidden: "" });
      const button = make("button", { type: "button", class: "row", "aria-expanded": "false", "aria-controls": id },
        make("span", { class: "text" }, query.text, " ", make("span", { class: "id" }, query.id)),
        sparks(query),
        make("span", { class: "value", "data-name": baseline < 0 ? "" : data.baseline }, baseline < 0 ? "" : plain(query.values[baseline][state.measure])),
        make("span", { class: "value", "data-name": collection.systems[state.system].name }, plain(query.values[state.system][state.measure])),
        make("span", { class: `value ${outcome(value)}` }, baseline < 0 ? "" : signed(value)),
        difference(value));
      const toggle = (open) => {
        button.setAttribute("aria-expanded", open);
        panel.hidden = !open;
        state.open[open ? "add" : "delete"](query.id);
        if (open && !panel.hasChildNodes()) {
          panel.append(
            make("p", { class: "note" }, `Query ${query.id}, ${query.relevant} relevant document${query.relevant === 1 ? "" : "s"}. ● relevant (with its grade, if above 1), ○ judged not relevant, others are not judged.`),
            systemsOfQuery(collection, query, state.measure, baseline));
          panel.append(explanations(query, collection.systems[state.system].name) ?? withoutExplanation(collection));
        }
      };
      button.addEventListener("click", () => toggle(panel.hidden));
      const item = make("li", {}, button, panel);
      item.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && !panel.hidden) { toggle(false); button.focus(); }
      });
      if (state.open.has(query.id)) toggle(true);
      return item;
    }

    list.addEventListener("keydown", (event) => {
      if (!event.target.matches("button.row")) return;
      const buttons = [...list.querySelectorAll("button.row")], place = buttons.indexOf(event.target);
      const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      buttons[Math.max(0, Math.min(buttons.length - 1, to))].focus();
    });

    function update() {
      const found = collection.queries.filter((query) =>
        (state.only === "all" || outcome(off(query)) === state.only)
        && (!state.words || `${query.id} ${query.text}`.toLowerCase().includes(state.words)));
      const sorted = found.sort(orders[state.order][1]);
      heads.replaceChildren(
        make("span", { class: "text" }, "query"), make("span", { class: "sparks", title: "One bar for each system in the order of the tables; the dark one is the chosen system, the line the baseline" }, "all systems"),
        make("span", { class: "value" }, baseline < 0 ? "" : data.baseline),
        make("span", { class: "value" }, collection.systems[state.system].name),
        make("span", { class: "value" }, "difference"), make("span", {}, ""));
      list.replaceChildren(...sorted.slice(0, state.limit).map((query, place) => row(query, place)));
      more.hidden = sorted.length <= state.limit;
      const all = collection.all_queries === collection.queries.length ? "" : ` (of ${amount(collection.all_queries)}, those in which systems differ most)`;
      told.textContent = `${amount(found.length)} of ${amount(collection.queries.length)} queries${all}; ${data.measures[state.measure]} of ${collection.systems[state.system].name}` + (baseline < 0 ? "" : ` against ${data.baseline}`) + ". Enter opens a query, arrow keys go on, Escape closes.";
    }

    section.querySelector(".queries").append(make("h3", {}, "Queries"), controls, told, heads, list, more);
    return (measure) => { state.measure = measure; update(); };
  }

  // One measure at a time, in the plots, the wins and losses and the queries.
  document.querySelectorAll("section.collection").forEach((section, number) => {
    const collection = data.collections[number];
    if (!collection.systems.length) return;
    section.querySelectorAll("table.scores tbody th").forEach((cell, place) => {
      icons[collection.systems[place].kind] ??= cell.querySelector("svg");
    });
    const choose = queries(section, collection, number);
    const show = (chosen) => {
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", place === chosen));
      section.querySelectorAll(".of-measure").forEach((part, place) => { part.hidden = place !== chosen; });
      choose(chosen);
    };
    const buttons = data.measures.map((measure, place) => make("button", { type: "button", onclick: () => show(place) }, measure));
    section.querySelector(".measures").append(make("span", {}, "Measure of what follows"), make("span", { class: "switch", role: "group", "aria-label": "Measure" }, ...buttons));
    show(0);
  });
})();
