/** Inline completions in VS Code: the line at the cursor, from a nextchar service. */

const vscode = require("vscode");

class Provider {
  #log;
  #suggesters = new WeakMap(); // by document
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
    const line = document.lineAt(position.line).text;
    const before = document.getText(new vscode.Range(0, 0, position.line, position.character)).replaceAll("\r\n", "\n");
    try {
      const service = await (this.#service ??= connect());
      const text = line.slice(position.character).trim()
        ? await this.#between(service, before, document, position, stop.signal)
        : await this.#suggester(service, document).suggest(service.promptOf(before), { signal: stop.signal });
      return text ? [new vscode.InlineCompletionItem(text, new vscode.Range(position, position))] : [];
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

  async #between({ client, model, promptOf }, before, document, position, signal) {
    const end = document.lineAt(document.lineCount - 1).range.end;
    const suffix = document.getText(new vscode.Range(position, end)).slice(0, 1000);
    const options = { suffix, temperature: 0, until: "line", signal, retries: 0 };
    return (await client.complete(model, promptOf(before), options)).completions[0].text;
  }
}

async function connect() {
  const { Nextchar } = await import("./client.js");
  const { Suggester, promptOf } = await import("./suggester.js");
  const settings = vscode.workspace.getConfiguration("nextchar");
  const client = new Nextchar({ url: settings.get("server"), key: settings.get("key") || null });
  const model = settings.get("model") || (await client.models())[0]?.id;
  if (!model) throw new Error("the service has no model yet: train one, or set nextchar.model");
  return { client, model, Suggester, promptOf };
}

exports.activate = ({ subscriptions }) => {
  const log = vscode.window.createOutputChannel("nextchar");
  const provider = new Provider(log);
  subscriptions.push(
    log,
    vscode.languages.registerInlineCompletionItemProvider({ pattern: "**" }, provider),
    vscode.workspace.onDidChangeConfiguration((change) => change.affectsConfiguration("nextchar") && provider.forget()),
  );
};
