// GET /live, read for ever. `fetch` instead of EventSource, which cannot send a token.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10000;
const TOKEN = "stream-rnn token";

// "/#token=..." is taken once and taken out of the address; no cookie is ever set
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname);
}

export const forget = () => sessionStorage.removeItem(TOKEN);
export const remember = (token) => sessionStorage.setItem(TOKEN, token);
export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

/**
 * Call `on.about`, `on.frame`, `on.ready` with what comes, `on.state` with how it goes, and
 * `on.refused` (awaited) when a token is needed. Never returns.
 */
export async function follow(on) {
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
    try {
      const token = sessionStorage.getItem(TOKEN);
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await fetch("/live", { headers, cache: "no-store" });
      if (answer.status === 401) {
        await on.refused();
        waitMs = FIRST_WAIT_MS / 2;
        continue;
      }
      if (!answer.ok) {
        on.state("trouble", answer.status === 503 ? "too many are watching" : `answer ${answer.status}`);
      } else {
        waitMs = FIRST_WAIT_MS / 2;
        await read(answer.body, on);
        on.state("trouble", "not connected");
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;  // TypeError: the network said no
      on.state("trouble", "not connected");
    }
    await new Promise((done) => setTimeout(done, waitMs));
  }
}

async function read(body, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (left + value).split("\n\n");
    left = blocks.pop();
    for (const block of blocks) tell(block, on);
  }
}

function tell(block, on) {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data && on[name]) on[name](JSON.parse(data));
}
