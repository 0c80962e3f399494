// Classifies an image by the server that the page comes from.

// The token stands behind the # of the address. It is taken from there, so that nobody reads or copies it by chance.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer. Does it still run?");
  }
  const answer = await response.json().catch(() => ({ error: `The server answers ${response.status}.` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

export function start() {
  return ask("model.json");
}

export async function classify(file) {
  const begin = performance.now();
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const answer = await ask("predict", { method: "POST", body: file, headers: { "Content-Type": type } });
  return { ...answer, milliseconds: { ...answer.milliseconds, total: performance.now() - begin } };
}
