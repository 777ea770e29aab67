// Files of a form: hashed here, sent in parts, and named in the form by digest and path, before the form itself is sent.
// What was sent once is not sent again: whoever was cut off chooses the same files, and the rest is sent.
(function () {
  const PIECE = 4 * 2 ** 20, AT_ONCE = 3, TRIES = 5;
  const wait = (seconds) => new Promise((done) => { setTimeout(done, 1000 * seconds); });

  class Refused extends Error {}

  function chosen(form) {
    const files = new Map();
    for (const input of form.querySelectorAll("[data-files]")) {
      for (const file of input.files) {
        const path = file.webkitRelativePath ? file.webkitRelativePath.split("/").slice(1).join("/") : file.name;
        files.set(path, file);
      }
    }
    return files;
  }

  function shown(bytes) {
    let unit = 0;
    for (; bytes >= 1000 && unit < 4; unit++) bytes /= 1000;
    return `${unit ? bytes.toPrecision(3) : bytes} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
  }

  // The page does all that a person waits for in the same order, so one bar shows it: hashing counts as much as sending.
  function progress(form, total) {
    const part = form.querySelector("[data-sending]"), bar = part.querySelector("progress"), words = part.querySelector("p");
    part.hidden = false;
    let done = 0;
    return {
      step(bytes) { done += bytes; bar.value = total ? done / total : 1; },
      say(sentence) { words.textContent = sentence; },
      end() { part.hidden = true; },
    };
  }

  async function fetchPatiently(path, options, refused) {
    for (let tries = 1; ; tries++) {
      const answer = await fetch(path, options).catch(() => null);
      if (answer?.ok) return answer;
      if (answer && answer.status < 500 && answer.status !== 429) throw await refused(answer);
      if (tries === TRIES) throw new Error(answer ? `The registry answers ${answer.status}` : "The registry does not answer");
      await wait(Number(answer?.headers.get("Retry-After")) || 2 ** tries);
    }
  }

  async function ask(form, path, fields) {
    const body = new URLSearchParams({ ...fields, csrf: form.elements.csrf.value });
    const refused = async (answer) => new Refused(await answer.text());
    const answer = await fetchPatiently(path, { method: "POST", headers: { "HX-Request": "true" }, body }, refused);
    return answer.json();
  }

  async function hash(file, bar) {
    const hasher = nobleHashes.sha256.create();
    for (let at = 0; at < file.size; at += PIECE) {
      const piece = new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer());
      hasher.update(piece);
      bar.step(piece.length);
    }
    return Array.from(hasher.digest(), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function put(upload, number, piece) {
    const refused = async (answer) => new Error((await answer.json().catch(() => ({}))).detail || "A part could not be sent");
    await fetchPatiently(`/api/lfs/${upload.id}/parts/${number + 1}`, { method: "PUT", body: piece }, refused);
  }

  async function send(form, path, file, bar) {
    bar.say(`Reading ${path} (${shown(file.size)})`);
    const sha256 = await hash(file, bar);
    const space = form.elements.namespace ? { namespace: form.elements.namespace.value } : {};
    const upload = await ask(form, "/uploads", { sha256, size: file.size, ...space });
    const missing = [...upload.missing];
    bar.say(`Sending ${path} (${shown(file.size)})`);
    bar.step(file.size - missing.reduce((sum, number) => sum + size(upload, number), 0));
    const sender = async () => {
      for (let number = missing.shift(); number !== undefined; number = missing.shift()) {
        const start = number * upload.part_size;
        await put(upload, number, file.slice(start, start + upload.part_size));
        bar.step(size(upload, number));
      }
    };
    const failed = (await Promise.allSettled(Array.from({ length: AT_ONCE }, sender))).find((one) => one.status === "rejected");
    if (failed) throw failed.reason;
    if (upload.state === "open") await ask(form, `/uploads/${upload.id}/complete`, {});
    return sha256;
  }

  function size(upload, number) {
    return Math.min(upload.part_size, upload.size - number * upload.part_size);
  }

  async function sendAll(form) {
    const skipped = new RegExp(form.dataset.notSent);
    const files = [...chosen(form)].filter(([path]) => !skipped.test(path));
    const bar = progress(form, 2 * files.reduce((sum, [, file]) => sum + file.size, 0));
    const names = [];
    try {
      for (const [path, file] of files) names.push(`${await send(form, path, file, bar)} ${path}`);
    } finally {
      bar.end();
    }
    form.querySelectorAll("[name=file]").forEach((old) => { old.remove(); });
    for (const value of names) {
      form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "file", value }));
    }
  }

  function refuse(form, error) {
    const place = form.querySelector(".refusal");
    if (error instanceof Refused) {
      place.innerHTML = error.message;  // the server's own, as htmx would show it
      return;
    }
    const words = `${error.message}. Send the form again: what has arrived is not sent twice.`;
    place.replaceChildren(Object.assign(document.createElement("p"), { className: "notice bad", role: "alert", textContent: words }));
  }

  let sending = false;
  addEventListener("beforeunload", (event) => { if (sending) event.preventDefault(); });

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.dataset.notSent === undefined || form.dataset.sent === "yes") return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (sending) return;
    sending = true;
    const button = form.querySelector("button.primary");
    button.disabled = true;
    try {
      form.querySelector(".refusal").replaceChildren();
      await wait(0);  // as long as this event is handled, the form cannot be sent again
      await sendAll(form);
      form.dataset.sent = "yes";
    } catch (error) {
      refuse(form, error);
    }
    sending = button.disabled = false;
    if (form.dataset.sent === "yes") form.requestSubmit();
    form.dataset.sent = "no";  // another choice, or a refusal of the form, is for the next time
  }, true);

  function tell(event) {
    const form = event.target.closest("[data-not-sent]");
    const place = form?.querySelector("[data-chosen]");
    if (!place || !event.target.matches("[data-files]")) return;
    const skipped = new RegExp(form.dataset.notSent), files = [...chosen(form)];
    const taken = files.filter(([path]) => !skipped.test(path)), bytes = taken.reduce((sum, [, file]) => sum + file.size, 0);
    const left = files.length - taken.length;
    place.textContent = `${taken.length} file${taken.length === 1 ? "" : "s"}, ${shown(bytes)}`
      + (left ? `; ${left} left out (hidden, left of training, or pickled)` : "");
  }

  document.addEventListener("change", tell);
})();
