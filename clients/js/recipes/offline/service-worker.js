/** Keeps the page, the package's modules and the model on the device, so that the page opens without a network. */

const CACHE = "nextchar-1"; // change the name with the files: then they are fetched again
const MODULES = ["nextchar", "client", "events", "field-helper", "ghost-text", "lazy", "list", "mirror", "suggester", "offline",
  "offline-field", "offline-memory", "offline-worker"];
const FILES = ["./", "./model.nextchar", "./nextchar/nextchar.wasm", ...MODULES.map((name) => `./nextchar/${name}.js`)];

addEventListener("install", (event) => event.waitUntil(keep()));
addEventListener("activate", (event) => event.waitUntil(discardOthers()));
addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function keep() {
  try {
    await (await caches.open(CACHE)).addAll(FILES);
  } catch (error) {
    await caches.delete(CACHE); // all or nothing
    if (error.name !== "QuotaExceededError") throw error;
    for (const page of await clients.matchAll({ includeUncontrolled: true })) {
      page.postMessage("There is no room on this device for the model: the page works while there is a network.");
    }
  }
}

async function discardOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith("nextchar-") && name !== CACHE).map((name) => caches.delete(name)));
}

const answer = async (request) => (await caches.match(request)) ?? fetch(request);
