"use strict";
// What every drawing needs: the colours of the scheme, and plotly, which the page carries deflated.
const drawing = (() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const wash = (name, alpha) => `rgb(${paint(name + "-rgb").split(" ").join(",")},${alpha})`.replace("rgb(", "rgba(");
  const axis = () => ({ gridcolor: paint("line"), zerolinecolor: paint("line"), linecolor: paint("line"),
    tickcolor: paint("line"), fixedrange: true, automargin: true });
  const ground = () => ({
    dragmode: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: paint("sans"), size: 12.5, color: paint("soft") },
    hoverlabel: { bgcolor: paint("card"), bordercolor: paint("line"), font: { color: paint("ink"), family: paint("sans") } },
  });
  const config = { displayModeBar: false, responsive: true, displaylogo: false };

  async function load() {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), (c) => c.charCodeAt(0));
    const code = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
    const script = document.createElement("script");
    script.textContent = code;
    document.head.append(script);
  }

  // Draw now, and again when the colours change.
  const keep = (draw, failed) => load().then(() => {
    draw();
    dark.addEventListener("change", draw);
    addEventListener("beforeprint", draw);
    addEventListener("afterprint", draw);
    document.documentElement.dataset.drawn = "yes";
  }).catch(failed);

  return { paint, wash, axis, ground, config, keep };
})();
