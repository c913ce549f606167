"use strict";
(() => {
  const island = JSON.parse(document.getElementById("island").textContent);
  const cine = island.cine;
  const byId = (id) => document.getElementById(id);
  const COLOURS = ["#ff6b6b", "#5ad18b", "#6aa8ff", "#ffc53d", "#c99bff", "#4fd6e8"];
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const frames = cine ? cine.frames : Math.max(0, ...island.panels.map((p) => p.frames));
  if (!frames) return;

  const state = {
    frame: island.ed !== null && island.ed < frames ? island.ed : 0, slice: cine ? cine.start : 0,
    playing: false, speed: 1, contours: true, zoom: Boolean(cine && cine.region),
  };

  const load = (sprite) => {
    const picture = new Image();
    picture.onload = () => draw();
    picture.src = sprite.uri;
    return { picture, ...sprite };
  };
  const sheets = cine ? cine.sprites.map(load) : [];
  const panels = island.panels.map(load);

  /* Outlines arrive as differences of tenths of a pixel; each frame and slice is unpacked when first shown. */
  const unpacked = new Map();
  const outline = (index, frame, slice) => {
    const key = `${index}/${frame}/${slice}`;
    if (!unpacked.has(key)) {
      const path = new Path2D();
      for (const part of cine.contours[index].paths[frame][slice].split(";")) {
        if (!part) continue;
        const steps = part.split(" ");
        let x = 0, y = 0;
        for (let i = 0; i < steps.length; i += 2) {
          x += +steps[i]; y += +steps[i + 1];
          if (i) path.lineTo(x / 10 + 0.5, y / 10 + 0.5); else path.moveTo(x / 10 + 0.5, y / 10 + 0.5);
        }
        path.closePath();
      }
      unpacked.set(key, path);
    }
    return unpacked.get(key);
  };

  const paint = (canvas, sheet, box, size, aspect, overlay) => {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (!sheet.picture.complete || !sheet.picture.naturalWidth) return;
    const frame = Math.min(state.frame, sheet.frames - 1);
    const [x0, y0, x1, y1] = box;
    const scale = Math.min(width / (x1 - x0), height / ((y1 - y0) * aspect));
    const left = (width - (x1 - x0) * scale) / 2, top = (height - (y1 - y0) * scale * aspect) / 2;
    const sx = sheet.width / size[0], sy = sheet.height / size[1];
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet.picture, (frame % sheet.columns) * sheet.width + x0 * sx,
      Math.floor(frame / sheet.columns) * sheet.height + y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy,
      left, top, (x1 - x0) * scale, (y1 - y0) * scale * aspect);
    if (overlay === null) return;
    context.save();
    context.setTransform(scale, 0, 0, scale * aspect, left - x0 * scale, top - y0 * scale * aspect);
    cine.contours.forEach((_, index) => {
      const path = outline(index, frame, overlay);
      context.lineJoin = "round";
      context.lineWidth = (canvas.id === "view" ? 3.6 : 2) * ratio / scale;
      context.strokeStyle = "rgba(0, 0, 0, .45)";
      context.stroke(path);
      context.lineWidth = (canvas.id === "view" ? 1.9 : 1.2) * ratio / scale;
      context.strokeStyle = COLOURS[index % COLOURS.length];
      context.stroke(path);
    });
    context.restore();
  };

  const view = byId("view"), strip = byId("strip"), thumbs = [];
  const frameInput = byId("frame"), frameOut = byId("frame-out"), play = byId("play");
  const cursor = byId("cursor"), readout = byId("readout");

  function draw() {
    if (cine) {
      const whole = [0, 0, cine.width, cine.height], size = [cine.width, cine.height];
      const box = state.zoom && cine.region ? cine.region : whole;
      const overlay = state.contours && cine.contours.length ? state.slice : null;
      paint(view, sheets[state.slice], box, size, cine.aspect, overlay);
      thumbs.forEach((canvas, slice) => paint(canvas, sheets[slice], cine.region || whole, size, cine.aspect,
        state.contours && cine.contours.length ? slice : null));
      const parts = [];
      if (cine.total > 1) parts.push(`Slice ${cine.slices[state.slice]} of ${cine.total}`);
      if (frames > 1) parts.push(`frame ${state.frame + 1} of ${frames}${mark(state.frame)}`);
      byId("caption").textContent = parts.join(", ");
    }
    document.querySelectorAll("canvas.panel").forEach((canvas) => {
      const sheet = panels[+canvas.dataset.panel];
      paint(canvas, sheet, [0, 0, sheet.width, sheet.height], [sheet.width, sheet.height], 1, null);
    });
    if (frameInput) { frameInput.value = state.frame + 1; frameOut.textContent = `${state.frame + 1} / ${frames}`; }
    if (island.curve && state.frame < island.curve.x.length) {
      cursor.removeAttribute("hidden");
      const x = island.curve.x[state.frame];
      cursor.querySelector("line").setAttribute("transform", `translate(${x} 0)`);
      const words = [];
      island.curve.lines.forEach((line, index) => {
        const dot = cursor.querySelectorAll("circle")[index], point = line.points[state.frame];
        dot.setAttribute("visibility", point ? "visible" : "hidden");
        if (point) { dot.setAttribute("cx", point[0]); dot.setAttribute("cy", point[1]); words.push(`${line.kind.toUpperCase()} ${line.values[state.frame].toFixed(0)} mL`); }
      });
      readout.textContent = `Frame ${state.frame + 1}${mark(state.frame)}: ${words.join(", ")}`;
    }
  }
  const mark = (frame) => frame === island.ed ? " (ED)" : frame === island.es ? " (ES)" : "";

  const toFrame = (frame) => { state.frame = ((frame % frames) + frames) % frames; draw(); };
  const toSlice = (slice) => {
    state.slice = Math.max(0, Math.min(sheets.length - 1, slice));
    thumbs.forEach((canvas, index) => canvas.parentElement.setAttribute("aria-pressed", index === state.slice));
    const chosen = thumbs[state.slice];
    if (chosen) strip.scrollLeft = chosen.parentElement.offsetLeft - strip.clientWidth / 2 + 31;
    draw();
  };
  const toggle = (name) => {
    state[name] = !state[name];
    const button = byId(name);
    if (button) button.setAttribute("aria-pressed", state[name]);
    draw();
  };

  let last = 0, due = 0;
  const tick = (now) => {
    if (!state.playing) return;
    due += (now - last) * state.speed;
    last = now;
    const pace = cine && cine.cycle_ms ? cine.cycle_ms / frames : Math.min(60, Math.max(30, 1000 / frames));
    const steps = Math.floor(due / pace);
    if (steps) { due -= steps * pace; toFrame(state.frame + steps); }
    requestAnimationFrame(tick);
  };
  const setPlaying = (on) => {
    state.playing = on && frames > 1;
    if (play) { play.setAttribute("aria-label", on ? "Pause" : "Play"); play.firstElementChild.textContent = on ? "❚❚" : "▶"; }
    if (state.playing) { last = performance.now(); due = 0; requestAnimationFrame(tick); }
  };

  if (strip) cine.slices.forEach((number, index) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas"), name = document.createElement("span");
    button.type = "button";
    button.setAttribute("aria-label", `Slice ${number}`);
    name.textContent = number;
    button.append(canvas, name);
    button.addEventListener("click", () => toSlice(index));
    strip.append(button);
    thumbs.push(canvas);
  });
  if (play) play.addEventListener("click", () => setPlaying(!state.playing));
  if (frameInput) frameInput.addEventListener("input", () => { setPlaying(false); toFrame(frameInput.value - 1); });
  if (byId("speed")) byId("speed").addEventListener("change", (event) => { state.speed = +event.target.value; });
  if (byId("contours")) byId("contours").addEventListener("click", () => toggle("contours"));
  if (byId("zoom")) byId("zoom").addEventListener("click", () => toggle("zoom"));
  [["to-ed", island.ed], ["to-es", island.es]].forEach(([id, frame]) => {
    const button = byId(id);
    if (!button || frame === null || frame >= frames) return;
    button.hidden = false;
    button.addEventListener("click", () => { setPlaying(false); toFrame(frame); });
  });

  const hit = byId("curve-hit");
  if (hit && island.curve) {
    const seek = (event) => {
      const svg = byId("curve"), bounds = svg.getBoundingClientRect();
      const x = (event.clientX - bounds.left) * 480 / bounds.width;
      let best = 0;
      island.curve.x.forEach((place, index) => { if (Math.abs(place - x) < Math.abs(island.curve.x[best] - x)) best = index; });
      setPlaying(false);
      toFrame(best);
    };
    hit.addEventListener("pointerdown", (event) => { hit.setPointerCapture(event.pointerId); seek(event); });
    hit.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
  }

  const segmentReadout = byId("segment-readout");
  document.querySelectorAll(".segment").forEach((segment) => {
    segment.addEventListener("pointerenter", () => { segmentReadout.textContent = segment.dataset.text; });
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target, kind = target.tagName;
    if (kind === "SELECT" || kind === "INPUT" || kind === "SUMMARY" || (kind === "BUTTON" && event.key === " ")) return;
    if (target.classList && target.classList.contains("scroll")) return;
    const viewer = document.querySelector(".viewer");
    const meant = viewer.contains(target) || viewer.matches(":hover");
    const act = {
      " ": () => setPlaying(!state.playing),
      ArrowRight: () => { setPlaying(false); toFrame(state.frame + 1); },
      ArrowLeft: () => { setPlaying(false); toFrame(state.frame - 1); },
      ArrowUp: () => toSlice(state.slice - 1), ArrowDown: () => toSlice(state.slice + 1),
      c: () => toggle("contours"), z: () => { if (cine && cine.region) toggle("zoom"); },
    }[event.key];
    if (!act || !cine || !meant) return;
    if ((event.key === "ArrowUp" || event.key === "ArrowDown") && sheets.length < 2) return;
    event.preventDefault();
    act();
  });

  new ResizeObserver(() => draw()).observe(document.body);
  matchMedia("print").addEventListener("change", () => { setPlaying(false); draw(); });
  if (cine) toSlice(state.slice);
  setPlaying(!still);
  draw();
})();
