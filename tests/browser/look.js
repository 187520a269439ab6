// What the tests ask of the report: each function returns plain values.
const look = (() => {
  const visible = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility());
  const box = (element) => {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [left, top, right, bottom];
  };

  const plots = () => visible("svg.plot").map((plot) => {
    const boxes = (selector) => [...plot.querySelectorAll(selector)].map((one) => [one.dataset.system, box(one)]);
    return {
      collection: Number(plot.closest("section").dataset.number), measure: plot.dataset.measure,
      cost: plot.dataset.cost, frame: box(plot), texts: boxes("text"), marks: boxes(".mark"), labels: boxes(".label"),
    };
  });

  const opened = () => {
    const panel = document.querySelector('button.row[aria-expanded="true"]').nextElementSibling;
    const number = (cell) => Number(cell.textContent.replaceAll(",", ""));
    const cells = (row) => [...row.children].map((cell) => cell.innerText.trim());
    return {
      label: panel.getAttribute("aria-label"), visible: panel.checkVisibility(),
      systems: [...panel.querySelectorAll(".opened tbody tr")].map(cells),
      terms: [...panel.querySelectorAll(".terms tbody th")].map((cell) => cell.textContent),
      documents: [...panel.querySelectorAll(".document")].map((found) => ({
        title: found.querySelector("h5").textContent,
        products: [...found.querySelectorAll(".contribution .product")].map(number),
        foot: [...found.querySelectorAll("tfoot td.number")].map(number),
        sum: found.querySelector("tfoot tr:last-child th").textContent,
      })),
    };
  };

  const rows = () => [...document.querySelectorAll("#collection-0 button.row")].map((row) => [
    row.querySelector(".text").firstChild.data,
    ...[...row.querySelectorAll(".value")].map((value) => value.textContent),
  ]);

  const change = (label, value) => {
    const labels = [...document.querySelectorAll("#collection-0 .controls label")];
    const control = labels.find((one) => one.firstChild.data === label).lastChild;
    control.value = value;
    for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind));
  };

  // Contrast as WCAG 2 defines it, of each visible element that has text of its own.
  const contrasts = () => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colour) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = ([red, green, blue]) =>
      0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
    const behind = (element) => {
      for (let one = element; one; one = one.parentElement) {
        const found = rgb(getComputedStyle(one).backgroundColor);
        if (found[3] === 255) return found;
      }
      return [255, 255, 255];
    };
    const hasText = (element) => !["SCRIPT", "STYLE", "OPTION", "title"].includes(element.tagName)
      && [...element.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
    return visible("body *").filter(hasText).map((element) => {
      const style = getComputedStyle(element);
      const own = luminance(rgb(element instanceof SVGElement ? style.fill : style.color));
      const back = luminance(behind(element));
      const contrast = (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05);
      return [contrast, element.tagName, element.textContent.slice(0, 40)];
    });
  };

  return { plots, opened, rows, change, contrasts };
})();
