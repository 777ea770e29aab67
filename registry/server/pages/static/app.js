// What pages do beyond what the server sends: copy, switch the theme, show a slider's number, keep a form that is being filled in.
(function () {
  const root = document.documentElement;

  function dark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function reveal(part) {
    part.querySelectorAll("[data-copy], [data-theme-toggle]").forEach((button) => { button.hidden = false; });
    part.querySelectorAll("input[type=range]").forEach(follow);
  }

  function follow(slider) {
    const box = slider.dataset.number && document.getElementById(slider.dataset.number);
    if (!box || slider.dataset.followed) return;
    slider.dataset.followed = "yes";
    slider.hidden = false;
    slider.addEventListener("input", () => { box.value = slider.value; });
    box.addEventListener("input", () => { slider.value = box.value; });
  }

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const text = copy.parentElement.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
      } catch {  // no permission, or no TLS: the old way
        const range = document.createRange();
        range.selectNodeContents(copy.parentElement.querySelector("code"));
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      const word = copy.textContent;
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = word; }, 1500);
    }
    if (event.target.closest("[data-theme-toggle]")) {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch {}
    }
  });

  function touched(event) {
    const form = event.target.closest("form");
    if (form) form.dataset.touched = "yes";
  }

  // The result of a job replaces a part of the page, but not a form that somebody has filled in or sent.
  document.addEventListener("input", touched);
  document.addEventListener("submit", touched);
  function spare(event) {
    const job = event.target;
    if (!job.matches?.(".job[hx-trigger]")) return;
    if (!document.querySelector(job.getAttribute("hx-target")).querySelector("form[data-touched]")) return;
    event.preventDefault();
    job.querySelector("[data-older]").hidden = false;
  }

  document.addEventListener("htmx:before:request", spare);
  document.addEventListener("htmx:before:swap", spare);  // a form may be filled in while the result is on its way

  document.addEventListener("htmx:after:swap", () => reveal(document));
  reveal(document);
})();
