// Draws the robustness curves. Everything else in the page is there without a script.
(() => {
  const curves = JSON.parse(document.getElementById("curves").textContent);
  const { paint, wash, axis, ground, config, keep } = drawing;
  const digits = (value) => String(Number(value.toPrecision(3)));
  const at = (curve, x) => {
    let low = 0, high = curve.x.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (curve.x[middle] <= x) low = middle; else high = middle - 1;
    }
    return low;
  };

  function traces(curve) {
    const x = [...curve.x, curve.end], extended = (values) => [...values, values[values.length - 1]];
    const steps = { mode: "lines", x, hoverinfo: "skip", showlegend: false };
    const all = [
      { ...steps, y: extended(curve.high), line: { shape: "hv", width: 0 } },
      { ...steps, y: extended(curve.low), line: { shape: "hv", width: 0 }, fill: "tonexty", fillcolor: wash("robust", 0.16) },
      { ...steps, y: extended(curve.y), line: { shape: "hv", width: 2.4, color: paint("robust") }, hoverinfo: "all",
        hovertemplate: `ε %{x:.4~g}${curve.unit}<br>at most %{y:.1f}%<extra></extra>` },
    ];
    if (curve.epsilon !== null && curve.robust.length)
      all.push({
        mode: "markers", x: [curve.epsilon], y: [curve.robust[0]], showlegend: false,
        marker: { size: 9, color: paint("broken"), line: { width: 1.5, color: paint("card") } },
        error_y: { type: "data", symmetric: false, color: paint("broken"), thickness: 1.6, width: 5,
          array: [curve.interval[1] - curve.robust[0]], arrayminus: [curve.robust[0] - curve.interval[0]] },
        hovertemplate: `audited: %{y:.1f}%<br>95% interval ${digits(curve.interval[0])} to ${digits(curve.interval[1])}%<extra></extra>`,
      });
    return all;
  }

  function layout(curve, x) {
    const lines = axis();
    const rule = (where, dash, colour) => ({ type: "line", x0: where, x1: where, y0: 0, y1: 1, yref: "paper",
      line: { width: 1.2, dash, color: paint(colour) } });
    const marked = curve.epsilon !== null;
    return {
      ...ground(), margin: { l: 46, r: 12, t: 24, b: 44 }, hovermode: "x",
      xaxis: { ...lines, range: [0, curve.end], title: { text: "ε" + (curve.unit ? ` (${curve.unit.trim()})` : ""), standoff: 8 } },
      yaxis: { ...lines, range: [0, 102], ticksuffix: "%", nticks: 6 },
      shapes: [...(marked ? [rule(curve.epsilon, "dot", "broken")] : []), rule(x, "solid", "natural")],
      annotations: marked ? [{ x: curve.epsilon, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, borderpad: 2,
        text: "audited ε", font: { color: paint("broken"), size: 12.5 } }] : [],
    };
  }

  const places = curves.map((curve, i) => ({ curve, plot: document.getElementById(`plot-${i + 1}`),
    slider: document.getElementById(`slider-${i + 1}`), said: document.getElementById(`said-${i + 1}`) }));

  function say({ curve, slider, said }) {
    const i = at(curve, Number(slider.value));
    said.textContent = `At ε = ${digits(Number(slider.value))}${curve.unit} at most ${curve.y[i].toFixed(1)}% withstand ` +
      `(95% interval ${curve.low[i].toFixed(1)} to ${curve.high[i].toFixed(1)}%).`;
    slider.setAttribute("aria-valuetext", said.textContent);
  }
  const draw = () => places.forEach(({ curve, plot, slider }) =>
    Plotly.react(plot, traces(curve), layout(curve, Number(slider.value)), config));

  places.forEach((place) => {
    place.slider.addEventListener("input", () => {
      say(place);
      if (window.Plotly) Plotly.relayout(place.plot, layout(place.curve, Number(place.slider.value)));
    });
    say(place);
  });
  keep(draw, (error) => {
    places.forEach(({ plot }) => { plot.textContent = `The curve could not be drawn here (${error.message}): its values are in the table below.`; });
  });
})();
