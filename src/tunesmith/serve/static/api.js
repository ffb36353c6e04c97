// What the page asks the server for. Errors are thrown with the server's own message.

export async function getJson(path) {
  return read(await fetch(path));
}

export async function postJson(path, body, signal) {
  return read(await post(path, body, signal));
}

// Calls onChunk with each chunk of a streamed completion; ends when the text does.
export async function streamText(path, body, signal, onChunk) {
  const response = await post(path, { ...body, stream: true }, signal);
  if (!response.ok) await read(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server ended the text before its end");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.choices.length) onChunk(readChoice(chunk.choices[0]));
    }
  }
}

function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function read(response) {
  const value = await response.json().catch(() => null);
  if (!response.ok) throw new Error(value?.error?.message ?? `${response.status} ${response.statusText}`);
  return value;
}

// {text, tokens: [{text, logprob, top: [[text, logprob]]}], finish} of a choice of either kind of completion.
function readChoice(choice) {
  const told = choice.logprobs;
  let tokens = [];
  if (told?.content) {
    tokens = told.content.map((token) => ({
      text: token.token, logprob: token.logprob, top: token.top_logprobs.map((top) => [top.token, top.logprob]),
    }));
  } else if (told?.tokens) {
    tokens = told.tokens.map((text, at) => ({
      text, logprob: told.token_logprobs[at], top: Object.entries(told.top_logprobs[at]),
    }));
  }
  return { text: choice.text ?? choice.delta?.content ?? "", tokens, finish: choice.finish_reason };
}
