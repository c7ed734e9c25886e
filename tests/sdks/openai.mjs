// OpenAI's Node SDK, as it is, all the way against the service at NEXTCHAR_SERVER. Prints one JSON object.

import OpenAI, { toFile } from "openai";

const sdk = new OpenAI({ baseURL: `${process.env.NEXTCHAR_SERVER}/v1`, apiKey: "none is asked for", maxRetries: 0 });
const told = {};

const line = (prompt, completion) => JSON.stringify({ prompt, completion }) + "\n";
const examples = (line("red ", "cherry.") + line("green ", "apple.") + line("yellow ", "lemon.")).repeat(16);
const file = await sdk.files.create({ file: await toFile(Buffer.from(examples), "fruit.jsonl"), purpose: "fine-tune" });
told.content = (await (await sdk.files.content(file.id)).text()).slice(0, 12);

let job = await sdk.fineTuning.jobs.create({
  model: "tiny",
  training_file: file.id,
  suffix: "fruit-js",
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 1, batch_size: 4 } } },
});
while (["queued", "running"].includes(job.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  job = await sdk.fineTuning.jobs.retrieve(job.id);
}
told.status = job.status;
told.model = job.fine_tuned_model;
told.events = [];
for await (const event of sdk.fineTuning.jobs.listEvents(job.id, { limit: 2 })) told.events.push(event.type);
told.checkpoints = [];
for await (const point of sdk.fineTuning.jobs.checkpoints.list(job.id)) told.checkpoints.push(point.metrics.valid_loss);

const asked = { model: told.model, prompt: "green ", max_tokens: 12, seed: 1 };
const whole = await sdk.completions.create({ ...asked, logprobs: 2 });
told.text = whole.choices[0].text;
told.tokens = whole.choices[0].logprobs.tokens.join("");
told.streamed = "";
const stream = await sdk.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  told.streamed += chunk.choices[0]?.text ?? "";
  if (chunk.usage) told.usage = chunk.usage;
}

const call = { custom_id: "one", method: "POST", url: "/v1/completions", body: asked };
const requests = await sdk.files.create({ file: await toFile(Buffer.from(JSON.stringify(call)), "batch.jsonl"), purpose: "batch" });
let batch = await sdk.batches.create({ input_file_id: requests.id, endpoint: "/v1/completions", completion_window: "24h" });
while (["validating", "in_progress", "finalizing"].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await sdk.batches.retrieve(batch.id);
}
const answer = JSON.parse(await (await sdk.files.content(batch.output_file_id)).text());
told.batch = [batch.status, answer.custom_id, answer.response.body.choices[0].text];

told.refused = await sdk.completions.create({ ...asked, max_tokens: -1 }).catch((error) => [error.constructor.name, error.param]);
told.deleted = [(await sdk.models.delete(told.model)).deleted, (await sdk.files.delete(file.id)).deleted];
told.gone = await sdk.completions.create(asked).catch((error) => error.constructor.name);
console.log(JSON.stringify(told));
