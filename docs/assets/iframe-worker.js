// Browsers start no workers for pages that are opened as files: there the search runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = Object.assign(document.createElement("iframe"), { hidden: true });
    #loaded;

    constructor(url) {
      super();
      const script = `<script>
        window.postMessage = (data) => parent.postMessage(data, "*");
        window.importScripts = (...urls) => Promise.all(urls.map((src) => new Promise((onload, onerror) =>
          document.head.append(Object.assign(document.createElement("script"), { src, onload, onerror, async: false })))));
      </${"script"}><script src="${url}"></${"script"}>`;
      this.#loaded = new Promise((resolve) => {
        this.#frame.onload = resolve;
      });
      this.#frame.srcdoc = script;
      document.documentElement.append(this.#frame);
      addEventListener("message", ({ source, data }) => {
        if (source !== this.#frame.contentWindow) return;
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      });
    }

    postMessage(data) {
      this.#loaded.then(() => this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
