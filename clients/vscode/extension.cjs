/** Inline completions in VS Code: the line at the cursor, from a nextchar service. */

const vscode = require("vscode");

const ACCEPT = "nextchar.accept";

class Provider {
  #log;
  #suggesters = new WeakMap(); // by document
  #shown = new WeakMap(); // by document: the last suggestion that was shown
  #service = null; // a promise of what the settings say

  constructor(log) {
    this.#log = log;
  }

  forget() {
    this.#service = null;
    this.#suggesters = new WeakMap();
  }

  async provideInlineCompletionItems(document, position, _context, token) {
    const stop = new AbortController();
    token.onCancellationRequested(() => stop.abort());
    const end = document.lineAt(document.lineCount - 1).range.end;
    const before = document.getText(new vscode.Range(0, 0, position.line, position.character)).replaceAll("\r\n", "\n");
    try {
      const { promptOf, ...service } = await (this.#service ??= connect((error) => this.#log.appendLine(error.message)));
      const suggester = this.#suggester(service, document);
      const suffix = document.getText(new vscode.Range(position, end)).replaceAll("\r\n", "\n");
      const text = await suggester.suggest(promptOf(before), { suffix, signal: stop.signal });
      if (!text || stop.signal.aborted) return [];
      const item = new vscode.InlineCompletionItem(text, new vscode.Range(position, position));
      if (service.events) item.command = this.#report(service.events, suggester, document, before + text, text);
      return [item];
    } catch (error) {
      if (stop.signal.aborted) return [];
      this.#service = null; // the next call tries again
      this.#log.appendLine(error.message);
      return [];
    }
  }

  #suggester({ Suggester, client, model }, document) {
    const onError = ({ message }) => this.#log.appendLine(message);
    if (!this.#suggesters.has(document)) this.#suggesters.set(document, new Suggester(client, model, { onError }));
    return this.#suggesters.get(document);
  }

  // A suggestion is the same while the user types along it. Returns what the editor runs when it is accepted.
  #report(events, { model, tookMs }, document, end, text) {
    if (this.#shown.get(document)?.end !== end) {
      const suggestion_id = `sug_${globalThis.crypto.randomUUID()}.0`;
      this.#shown.set(document, { end, event: { suggestion_id, model, client: "nextchar-vscode" } });
      events.add({ ...this.#shown.get(document).event, type: "shown", latency_ms: tookMs });
    }
    const accepted = { ...this.#shown.get(document).event, type: "accepted", characters: [...text].length };
    return { title: "Accept", command: ACCEPT, arguments: [() => events.add(accepted)] };
  }
}

async function connect(onError) {
  const { Nextchar } = await import("./client.js");
  const { EventQueue } = await import("./event-queue.js");
  const settings = vscode.workspace.getConfiguration("nextchar");
  const client = new Nextchar({ url: settings.get("server"), key: settings.get("key") || null });
  const model = settings.get("model") || (await client.models())[0]?.id;
  if (!model) throw new Error("the service has no model yet: train one, or set nextchar.model");
  const events = settings.get("report") ? new EventQueue(client, onError) : null;
  return { client, model, events, ...(await import("./suggester.js")) };
}

exports.activate = ({ subscriptions }) => {
  const log = vscode.window.createOutputChannel("nextchar");
  const provider = new Provider(log);
  subscriptions.push(
    log,
    vscode.commands.registerCommand(ACCEPT, (report) => report()),
    vscode.languages.registerInlineCompletionItemProvider({ pattern: "**" }, provider),
    vscode.workspace.onDidChangeConfiguration((change) => change.affectsConfiguration("nextchar") && provider.forget()),
  );
};
