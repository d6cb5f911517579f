// Charts, and the legends and sliders that control all charts of their group. `window.drawn` is a promise of all charts.

const views = []; // of {name, group, view}

async function draw(place) {
  const spec = JSON.parse(document.getElementById(`spec-${place.id}`).textContent);
  const options = { mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, tooltip: { theme: "page", disableDefaultStyle: true } };
  const { view } = await vegaEmbed(place, spec, options);
  views.push({ name: place.id, group: place.dataset.group, view });
}

const signal = (group, name, value) =>
  Promise.all(views.filter((each) => each.group === group).map(({ view }) => view.signal(name, value).runAsync()));

for (const legend of all("fieldset.legend")) {
  const boxes = all("input", legend);
  const update = () => signal(legend.dataset.group, "hidden", boxes.filter((box) => !box.checked).map((box) => box.value));
  legend.onchange = update;
  for (const button of all("button", legend))
    button.onclick = () => { boxes.forEach((box) => (box.checked = button.dataset.check === "all")); update(); };
}

for (const slider of all("input[data-signal]"))
  slider.oninput = () => {
    slider.parentElement.querySelector("output").value = Number(slider.value).toFixed(0);
    signal(slider.dataset.group, slider.dataset.signal, Number(slider.value));
  };

window.drawn = Promise.all(all(".chart").map(draw));
