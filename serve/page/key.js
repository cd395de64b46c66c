// The API key, where the server wants one: asked for when it does, kept until the tab is closed, and sent to this server alone.

const STORED_AS = "skipvit-key";
let asking = null;

markLinks();

export function storedKey() { return sessionStorage.getItem(STORED_AS); }

// fetch with the key that is there, and no question to the user.
export function fetchQuietly(url, options = {}) {
  const key = storedKey();
  return fetch(url, key ? { ...options, headers: { ...options.headers, Authorization: `Bearer ${key}` } } : options);
}

// fetch that asks the user for a key as long as the server refuses the one that came, and the user does not give up.
export async function keyedFetch(url, options = {}) {
  for (;;) {
    const tried = storedKey();
    const response = await fetchQuietly(url, options);
    if (response.status !== 401) return response;
    const renewed = storedKey() !== tried;  // by another request, meanwhile
    if (!renewed && !await askOnce(tried !== null)) return response;
  }
}

function store(key) {
  sessionStorage.setItem(STORED_AS, key);
  markLinks();
}

// A link that is followed sends no key: those that would need one are not shown.
function markLinks() { document.documentElement.toggleAttribute("data-keyed", storedKey() !== null); }

// However many requests are refused at a time, there is one question.
function askOnce(wrong) {
  asking ??= askUser(wrong).finally(() => { asking = null; });
  return asking;
}

function askUser(wrong) {
  const dialog = document.createElement("dialog");
  dialog.className = "card";
  dialog.id = "key-dialog";
  dialog.setAttribute("aria-labelledby", "key-title");
  dialog.innerHTML = `
    <h2 id="key-title">This server wants an API key</h2>
    <p class="quiet"></p>
    <form class="parts">
      <label for="key">API key</label>
      <input id="key" type="password" autocomplete="off" spellcheck="false" required>
      <div class="row"><button>Use it</button><button type="button">Cancel</button></div>
    </form>`;
  dialog.querySelector("p").textContent = wrong
    ? "It does not know the last one. Try again, or ask whoever runs it."
    : "Whoever runs it gives you one. It is forgotten when this tab is closed.";
  document.body.append(dialog);
  return new Promise((settle) => {
    let given = false;
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const key = dialog.querySelector("input").value.trim();
      // What no header can carry is no key, and fetch would call it the network's fault.
      given = /^[\x21-\x7e]+$/.test(key);
      if (given) store(key);
      if (given) dialog.close();
      else dialog.querySelector("p").textContent = "A key has letters, digits and signs, and no spaces.";
    });
    dialog.querySelector("[type=button]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => { dialog.remove(); settle(given); });
    dialog.showModal();
  });
}
