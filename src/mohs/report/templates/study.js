// Draws the figures of a study: lines, maps and surfaces. Names come from outside and go to plotly escaped.
(() => {
  const { paint, wash, axis, ground, config, keep } = drawing;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const INK = ["robust", "broken", "undecided", "natural", "ink"], DASH = ["solid", "dash", "dot", "dashdot"];
  const CLASSES = ["#5b8fc9", "#e0a458", "#6aa874", "#c96f6f", "#9a82c4", "#a98463", "#d792bd", "#8d8d8d", "#b9b54e", "#55b3bf"];

  function lines(figure) {
    const traces = [];
    figure.lines.forEach((line, i) => {
      const name = plain(line.name), color = paint(INK[i % INK.length]);
      if (line.dots) {
        traces.push({ mode: "markers+text", x: line.x, y: line.y, name, text: line.texts.map(plain), textposition: "top center",
          marker: { size: 9, color }, hovertemplate: "%{text}<br>%{x:.4~g}, %{y:.4~g}<extra></extra>", cliponaxis: false });
        return;
      }
      if (line.low.length) {
        const edge = { mode: "lines", x: line.x, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        const [r, g, b] = (color.match(/[0-9a-f]{2}/gi) || []).map((part) => parseInt(part, 16));
        traces.push({ ...edge, y: line.high }, { ...edge, y: line.low, fill: "tonexty", fillcolor: `rgba(${r},${g},${b},0.14)` });
      }
      traces.push({ mode: "lines", x: line.x, y: line.y, name, hovertemplate: `%{x:.4~g}: %{y:.4~g}<extra>${name}</extra>`,
        line: { width: 2.2, color, dash: DASH[i % DASH.length] } });
    });
    const title = (text) => ({ text: plain(text), standoff: 8 });
    return [traces, {
      ...ground(), margin: { l: 56, r: 14, t: 12, b: 44 }, hovermode: "closest",
      legend: { orientation: "h", y: -0.24, yanchor: "top", font: { size: 12 } }, showlegend: traces.some((t) => t.name && t.mode === "lines"),
      xaxis: { ...axis(), title: title(figure.x) },
      yaxis: { ...axis(), title: title(figure.y), ...(figure.log ? { type: "log", dtick: "D2" } : {}) },
    }];
  }

  // Colours and heights: as they are, or their logarithm with the values for labels.
  function scale(figure) {
    if (figure.classes.length) {
      const n = figure.classes.length;
      const steps = figure.classes.flatMap((_, i) => [[i / n, CLASSES[i % 10]], [(i + 1) / n, CLASSES[i % 10]]]);
      return { z: figure.values, colorscale: steps, zmin: -0.5, zmax: n - 0.5, ticks: figure.classes.map((name, i) => [i, plain(name)]) };
    }
    const turn = figure.log ? (v) => (v === null || v <= 0 ? null : Math.log10(v)) : (v) => v;
    const z = figure.values.map((row) => row.map(turn)), all = z.flat().filter((v) => v !== null);
    const low = turn(figure.low) ?? all.reduce((a, b) => Math.min(a, b), Infinity);
    const high = turn(figure.high) ?? all.reduce((a, b) => Math.max(a, b), -Infinity);
    const ticks = figure.log ? [0, 0.25, 0.5, 0.75, 1].map((t) => low + t * (high - low)).map((v) => [v, Number((10 ** v).toPrecision(2))]) : null;
    return { z, colorscale: [[0, paint("robust")], [0.5, paint("track")], [1, paint("broken")]], zmin: low, zmax: high, ticks };
  }

  const bar = (figure, ticks) => ({ thickness: 11, outlinewidth: 0, len: 0.95, title: { text: plain(figure.unit), side: "right" },
    ...(ticks ? { tickvals: ticks.map((t) => t[0]), ticktext: ticks.map((t) => t[1]) } : {}) });

  function flat(figure) {
    const { z, colorscale, zmin, zmax, ticks } = scale(figure), classed = figure.classes.length > 0;
    const texts = figure.values.map((row) => row.map((v) => (v === null ? "" : classed ? plain(figure.classes[v]) : Number(v.toPrecision(4)))));
    const base = { x: figure.xs, y: figure.ys, z, colorscale, zmin, zmax, text: texts, hovertemplate: "%{text}<extra></extra>",
      colorbar: bar(figure, ticks) };
    const where = (pale) => z.map((row, i) => row.map((v, j) => (Boolean(figure.pale[i]?.[j]) === pale ? v : null)));
    const maps = classed ? [{ ...base, type: "heatmap", z: where(false), opacity: 0.9 },
        { ...base, type: "heatmap", z: where(true), opacity: 0.35, showscale: false }]
      : [{ ...base, type: "contour", ncontours: 18, line: { width: 0.6, color: paint("soft") } }];
    const marks = figure.marks.map((mark) => ({ mode: "markers", x: [mark.x], y: [mark.y], name: plain(mark.name), hovertemplate: `${plain(mark.name)}<extra></extra>`,
      marker: { symbol: mark.cross ? "x" : "circle", size: 10, color: paint("ink"), line: { width: 1.5, color: paint("card") } } }));
    const frame = figure.frame, title = (text) => ({ text: plain(text), standoff: 8 });
    return [[...maps, ...marks], {
      ...ground(), margin: { l: 56, r: 10, t: 10, b: 44 }, hovermode: "closest", showlegend: false,
      xaxis: { ...axis(), title: title(figure.x), constrain: "domain" },
      yaxis: { ...axis(), title: title(figure.y), scaleanchor: "x", constrain: "domain" },
      shapes: frame ? [{ type: "rect", x0: -frame, x1: frame, y0: -frame, y1: frame, line: { width: 1.3, dash: "dot", color: paint("ink") } }] : [],
    }];
  }

  function surface(figure) {
    const { z, colorscale, zmin, zmax, ticks } = scale(figure);
    const side = (text) => ({ title: { text: plain(text) }, gridcolor: paint("line"), zerolinecolor: paint("line"), color: paint("soft"), showbackground: false });
    const texts = figure.values.map((row) => row.map((v) => (v === null ? "" : Number(v.toPrecision(4)))));
    return [[{ type: "surface", x: figure.xs, y: figure.ys, z, colorscale, cmin: zmin, cmax: zmax, showscale: false,
      text: texts, hovertemplate: "%{text}<extra></extra>", contours: { z: { show: true, width: 1, color: paint("soft"), usecolormap: false } } }], {
      ...ground(), dragmode: "turntable", margin: { l: 0, r: 0, t: 0, b: 0 },
      scene: { xaxis: side(figure.x), yaxis: side(figure.y), aspectmode: "manual", aspectratio: { x: 1, y: 1, z: 0.75 }, camera: { eye: { x: 1.5, y: 1.5, z: 0.9 } },
        zaxis: { ...side(figure.unit), range: [zmin, zmax], ...(ticks ? { tickvals: ticks.map((t) => t[0]), ticktext: ticks.map((t) => t[1]) } : {}) } },
    }];
  }

  const DRAWN = { lines, flat, surface };
  const places = [...document.querySelectorAll(".plot")].map((plot) => ({ plot, figure: figures[plot.dataset.figure], how: DRAWN[plot.dataset.how] }));
  keep(() => places.forEach(({ plot, figure, how }) => Plotly.react(plot, ...how(figure), config)), (error) => {
    places.forEach(({ plot }) => { plot.textContent = `The figure could not be drawn here (${error.message}): its values are in --json.`; });
  });
})();
