"use strict";
// The page sends a recording with its choices, asks how far the job is, and shows the result.

const POLL = 400; // ms
const choices = JSON.parse(document.getElementById("choices").textContent);
const at = (id) => document.getElementById(id);
const options = (select, entries) => select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
let recording = null; // Blob of the microphone
let recorder = null;
let job = null;

function chosenModel() {
  return choices.models.find((model) => model.name === at("model").value);
}

function fillAlgorithms() {
  const model = chosenModel();
  options(at("algorithm"), model.algorithms.map((name) => [name, choices.algorithms[name]]));
  options(at("prior"), model.priors.map((name) => [name, choices.priors[name]]));
  const only = model.priors.length === 1;
  at("prior").disabled = only;
  at("prior-hint").textContent = only
    ? "The prior can be swapped in A-VAE, V-VAE and AV-VAE."
    : "p(z) is replaced, the decoder stays as trained. Expect no gain: hear what the prior does.";
}

function source() {
  return new FormData(at("form")).get("source");
}

function showSource() {
  at("file-more").hidden = source() !== "file";
  at("microphone-more").hidden = source() !== "microphone";
}

function fail(sentence) {
  at("error").textContent = sentence ? `Not enhanced: ${sentence.replace(/[.]$/, "")}.` : "";
}

function busy(on) {
  at("progress").hidden = !on;
  at("stop").hidden = !on;
  at("enhance").disabled = on;
}

function show(doing, fraction) {
  if (at("doing").textContent !== doing) at("doing").textContent = at("status").textContent = doing;
  if (fraction === null) at("bar").removeAttribute("value");
  else at("bar").value = fraction;
}

async function asked(address, settings) {
  let response;
  try {
    response = await fetch(address, settings);
  } catch {
    throw new Error("the server does not answer: is it still running?");
  }
  const told = response.status === 204 ? {} : await response.json();
  if (!response.ok) throw new Error(told.error);
  return told;
}

function body() {
  const wanted = source();
  if (wanted === "face") return null;
  const given = wanted === "file" ? at("file").files[0] : recording;
  if (!given) throw new Error(wanted === "file" ? "choose a file first" : "record something first");
  if (given.size > choices.limits.bytes) throw new Error(choices.limits.too_large);
  return given;
}

async function enhance() {
  fail("");
  busy(true);
  show("sending the recording", null);
  try {
    const query = new URLSearchParams(["model", "algorithm", "prior"].map((name) => [name, at(name).value]));
    const headers = { "content-type": "application/octet-stream" };
    job = (await asked(`jobs?${query}`, { method: "POST", body: body(), headers })).job;
    for (;;) {
      const told = await asked(`jobs/${job}`);
      if (told.state === "done") return showResult(told);
      if (told.state === "failed") throw new Error(told.error);
      if (told.state === "waiting") show(`waiting: ${told.before} before yours`, null);
      else show(told.doing, told.fraction);
      await new Promise((resume) => setTimeout(resume, POLL));
    }
  } catch (error) {
    fail(error.message);
  } finally {
    job = null;
    busy(false);
    at("status").textContent = "";
  }
}

function showResult(told) {
  at("facts").replaceChildren(
    ...Object.entries(told.facts).map(([name, value]) => {
      const pair = document.createElement("div");
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      text.textContent = value;
      pair.append(term, text);
      return pair;
    }),
  );
  at("notes").replaceChildren(
    ...told.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })),
  );
  const sounds = new Set(told.sounds.map((sound) => sound.name));
  for (const player of document.querySelectorAll("[data-sound]")) {
    const name = player.dataset.sound;
    if (sounds.has(name)) player.src = `jobs/${job}/${name}.wav`;
    else player.removeAttribute("src");
  }
  at("clean").hidden = !sounds.has("clean");
  for (const image of document.querySelectorAll("[data-picture]")) {
    const picture = told.pictures[image.dataset.picture];
    if (!picture) continue;
    if (picture.narrow) at("alpha-narrow").srcset = picture.narrow;
    image.src = picture.image;
    image.alt = picture.text;
  }
  at("alpha").hidden = !told.pictures.alpha;
  at("alpha-title").textContent = told.alpha ? "Which component explains each frame: alpha" : "The lips";
  at("alpha-text").textContent = told.alpha && !told.exact_samples
    ? "The weights of the two components at every moment, which this algorithm computes from sound and lips: the share of the area."
    : told.alpha
    ? "The responsibilities p(α | x): how probable each value of alpha is at every moment, the share of the area."
    : "What the video shows of the lips at each time; red where they are not seen.";
  at("samples-text").textContent = told.exact_samples
    ? "Draws from p(s | x): all of them are speech that the model finds plausible for this recording. Where they differ, it is unsure."
    : "Normal draws with the posterior mean and variance of each bin, as the lips were weighted. Where they differ, the model is unsure.";
  at("result").hidden = false;
  at("result-title").focus();
  at("result").scrollIntoView({ block: "start" });
}

async function record() {
  if (recorder) return recorder.stop();
  fail("");
  let stream;
  try {
    // The browser's own enhancement would leave nothing to do.
    const audio = { noiseSuppression: false, echoCancellation: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch {
    return fail("the browser gives no microphone to this page");
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  const end = setTimeout(() => recorder && recorder.stop(), (choices.limits.seconds - 0.5) * 1000);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    clearTimeout(end);
    stream.getTracks().forEach((track) => track.stop());
    recording = new Blob(parts, { type: recorder.mimeType });
    recorder = null;
    at("record").textContent = "Record again";
    at("recorded").textContent = "recorded";
    at("preview").src = URL.createObjectURL(recording);
    at("preview").hidden = false;
  };
  recorder.start();
  at("record").textContent = "Stop recording";
  at("recorded").textContent = "recording ...";
}

options(at("model"), choices.models.map((model) => [model.name, model.label]));
fillAlgorithms();
showSource();
at("model").addEventListener("change", fillAlgorithms);
at("form").addEventListener("change", showSource);
at("record").addEventListener("click", record);
at("stop").addEventListener("click", () => job && asked(`jobs/${job}`, { method: "DELETE" }));
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  enhance();
});
