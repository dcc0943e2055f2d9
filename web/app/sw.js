// Keeps what a visit has used, so that the next one works without a network.
//
// Registered as sw.js?v=BUILD: a new build is a new service worker with a cache of its own, and the
// old cache goes when the new worker takes over. The document and the list of weights come from the
// network wherever there is one, so that a new build is found at once; everything else has its
// version in its address and never changes under it, unless whoever finds it broken throws it out.

const build = new URL(self.location.href).searchParams.get("v") ?? "none";
const prefix = `fashion-ddpm ${self.registration.scope} `;
const name = prefix + build;

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) => {
  const cleanUp = async () => {
    for (const key of await caches.keys()) {
      if (key.startsWith(prefix) && key !== name) await caches.delete(key);
    }
    await self.clients.claim();
  };
  event.waitUntil(cleanUp());
});

const ours = (url) => url.href.startsWith(self.registration.scope);
// The page has two addresses, and its query is for itself, not for the server.
const key = ({ url }) => {
  const { scope } = self.registration;
  return [scope, scope + "index.html"].includes(url.split(/[?#]/)[0]) ? scope : url;
};
// The weights' address has their checksum, other files' the build or a hash in the name.
const versioned = (url) => url.searchParams.has("v") || /-[0-9a-f]{8,}(_bg)?\.\w+$/.test(url.pathname);

// What was used before this worker was there to see it.
self.addEventListener("message", (event) => {
  const keep = async () => {
    const cache = await caches.open(name);
    for (const address of event.data?.keep ?? []) {
      const request = new Request(address);
      if (!ours(new URL(address)) || (await cache.match(key(request)))) continue;
      const response = await fetch(request).catch(() => null);
      // What breaks off on its way is not kept; the rest is.
      if (response?.ok) await cache.put(key(request), response).catch(() => {});
    }
  };
  event.waitUntil(keep());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || !ours(url)) return;
  event.respondWith(versioned(url) && request.mode !== "navigate" ? fromCache(event) : fromNetwork(event));
});

async function fromCache(event) {
  const cache = await caches.open(name);
  return (await cache.match(event.request.url)) ?? fetchAndKeep(event, cache);
}

async function fromNetwork(event) {
  const cache = await caches.open(name);
  try {
    return await fetchAndKeep(event, cache);
  } catch (error) {
    const kept = await cache.match(key(event.request));
    if (kept) return kept;
    throw error;
  }
}

// The page need not wait until all of it is kept.
async function fetchAndKeep(event, cache) {
  const response = await fetch(event.request);
  if (response.ok) event.waitUntil(cache.put(key(event.request), response.clone()).catch(() => {}));
  return response;
}
